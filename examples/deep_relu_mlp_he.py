"""Twenty ReLU layers with He initialization: the audit passes.

The network of `deep_relu_mlp.py` with the cure that its audit names: weights of variance 2/fan_in before a
ReLU (He et al. 2015, "Delving Deep into Rectifiers"), 1/fan_in before the output, which no ReLU follows, and
biases of zero.

    initaudit examples/deep_relu_mlp_he.py
"""

from torch import Tensor, nn

DEPTH, WIDTH, CLASSES = 20, 256, 10


class DeepReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for _ in range(DEPTH):
            self.body.append(nn.Linear(WIDTH, WIDTH))
            self.body.append(nn.ReLU())
        self.head = nn.Linear(WIDTH, CLASSES)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


if __name__ == "__main__":
    import rich

    import initaudit

    rich.print(initaudit.audit(DeepReLU))
