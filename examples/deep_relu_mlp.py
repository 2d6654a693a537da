"""Twenty ReLU layers with torch's default initialization: the audit fails.

`nn.Linear` draws its weights from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), whose variance is 1/(3 fan_in).
A ReLU layer needs 2/fan_in, so each layer keeps a sixth of the mean square it is given, and after twenty
of them the output hardly depends on the input. `deep_relu_mlp_he.py` is the same network, cured.

    initaudit examples/deep_relu_mlp.py

The sample input is left to be inferred: the first layer says that it takes 256 features.
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

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


if __name__ == "__main__":
    import rich

    import initaudit

    rich.print(initaudit.audit(DeepReLU))
