"""Networks of one's own, as recipes/own-model.yaml names them. Nothing here knows of mmedge.

``Teacher`` looks at the sound with a transformer; ``Student`` is a few convolutions. Their inputs have names of their
own, and neither knows that a modality may be missing: mmedge puts the training mean in its place.
"""

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 49, width),
        )
        self.frames = nn.Linear(32, width)
        self.position = nn.Parameter(torch.zeros(48, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.listen = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decide = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        heard = self.listen(self.frames(sound.squeeze(1).transpose(1, 2)) + self.position).mean(1)
        return self.decide(torch.cat([self.look(picture), heard], 1))


class Student(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 49, width),
        )
        self.listen = nn.Sequential(
            nn.Conv1d(32, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv1d(32, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 12, width),
        )
        self.decide = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, picture: Tensor, sound: Tensor) -> dict[str, Tensor]:
        return {"logits": self.decide(torch.cat([self.look(picture), self.listen(sound.squeeze(1))], 1))}


def teacher(width: int = 64, classes: int = 10) -> nn.Module:
    return Teacher(width, classes)


def student(width: int = 24, classes: int = 10) -> nn.Module:
    return Student(width, classes)
