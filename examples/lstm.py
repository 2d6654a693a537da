"""An LSTM language model, initialized gate by gate: the audit passes.

Each of the four gates has its own fan_in, so Xavier goes to each block of rows and not to the stacked matrix, whose
fan_out would count all four. Recurrent blocks are orthogonal, so that a state keeps its length from step to step
(Saxe et al. 2014), and the bias of the forget gate is one, so that the cell remembers at first
(Jozefowicz et al. 2015). torch adds two biases per gate; only one of them is set.

    initaudit examples/lstm.py

The sample input is inferred: the embedding says that it takes token ids below 1,000.
"""

from torch import Tensor, nn

VOCABULARY, WIDTH, LAYERS = 1000, 128, 2


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, parameter in self.lstm.named_parameters():
            if "weight_ih" in name:
                for gate in parameter.chunk(4):
                    nn.init.xavier_uniform_(gate)
            elif "weight_hh" in name:
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)
        for layer in range(LAYERS):
            _, forget, _, _ = getattr(self.lstm, f"bias_ih_l{layer}").chunk(4)
            nn.init.ones_(forget)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(ids))
        return self.head(states)


if __name__ == "__main__":
    import rich

    import initaudit

    rich.print(initaudit.audit(LanguageModel))
