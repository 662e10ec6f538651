"""Times training steps of GANomaly in PyTorch; `benchmarks.peers` runs it.

    python -m benchmarks.peers_torch '{"size": 32, "width": 64, "channels": 1, "latent": 100, "batch_size": 64}' eager

The networks, the losses and the two optimizers are those of `anomaly_toolbox/models/ganomaly.py`, without averaged
weights. For each line with a number of steps that it reads, it prints the seconds that these steps take. It needs
PyTorch, and nothing of the toolbox.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional

SLOPE = 0.2
BETAS = (0.5, 0.999)


def initialised(layer: nn.Module) -> nn.Module:
    """The layer with weights from N(0, 0.02)."""
    nn.init.normal_(layer.weight, 0.0, 0.02)
    return layer


def batch_normalisation(width: int) -> nn.Module:
    """Batch normalisation as in the toolbox."""
    layer = nn.BatchNorm2d(width, eps=1e-5, momentum=0.1)
    nn.init.normal_(layer.weight, 1.0, 0.02)
    return layer


def n_convolutions(size: int) -> int:
    """How often the side is halved until it is 4 or odd."""
    count = 0
    while size > 4 and size % 2 == 0:
        size //= 2
        count += 1
    return count


class Pyramid(nn.Sequential):
    """The convolutions from an image to its smallest feature map."""

    def __init__(self, size: int, width: int, channels: int):
        blocks: list[nn.Module] = []
        for depth in range(n_convolutions(size)):
            before, after = width * 2 ** (depth - 1) if depth else channels, width * 2**depth
            blocks.append(initialised(nn.Conv2d(before, after, 4, 2, 1, bias=False)))
            if depth:
                blocks.append(batch_normalisation(after))
            blocks.append(nn.LeakyReLU(SLOPE))
        super().__init__(*blocks)


class Encoder(nn.Sequential):
    """The pyramid and the layer that gives the code."""

    def __init__(self, size: int, width: int, channels: int, latent: int):
        n = n_convolutions(size)
        n_features = (size // 2**n) ** 2 * width * 2 ** (n - 1)
        super().__init__(
            Pyramid(size, width, channels), nn.Flatten(), initialised(nn.Linear(n_features, latent, bias=False))
        )


class Decoder(nn.Sequential):
    """The mirror of the pyramid."""

    def __init__(self, size: int, width: int, channels: int, latent: int):
        n = n_convolutions(size)
        smallest, widest = size // 2**n, width * 2 ** (n - 1)
        blocks: list[nn.Module] = [
            initialised(nn.Linear(latent, smallest**2 * widest, bias=False)),
            nn.Unflatten(1, (widest, smallest, smallest)),
        ]
        for depth in reversed(range(n)):
            before, after = width * 2**depth, width * 2 ** (depth - 1) if depth else channels
            convolution = initialised(nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False))
            blocks += [batch_normalisation(before), nn.ReLU(), convolution]
        super().__init__(*blocks, nn.Tanh())


class Discriminator(nn.Module):
    """The pyramid, whose last feature map is f(x), and the logit."""

    def __init__(self, size: int, width: int, channels: int):
        super().__init__()
        self.pyramid = Pyramid(size, width, channels)
        n = n_convolutions(size)
        self.logit = initialised(nn.Linear((size // 2**n) ** 2 * width * 2 ** (n - 1), 1, bias=False))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.pyramid(x)
        return features, self.logit(features.flatten(1))


class GANomaly(nn.Module):
    """All networks; the call computes the losses of (1) and (11)."""

    def __init__(self, size: int, width: int, channels: int, latent: int):
        super().__init__()
        self.encoder = Encoder(size, width, channels, latent)
        self.decoder = Decoder(size, width, channels, latent)
        self.second_encoder = Encoder(size, width, channels, latent)
        self.discriminator = Discriminator(size, width, channels)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.encoder(x)
        x_hat = self.decoder(z)
        z_hat = self.second_encoder(x_hat)
        real_features, real_logits = self.discriminator(x)
        fake_features, fake_logits = self.discriminator(x_hat)
        adversarial = functional.mse_loss(fake_features, real_features.detach())
        g_loss = adversarial + 50 * functional.l1_loss(x_hat, x) + functional.mse_loss(z, z_hat)
        d_loss = functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()
        return g_loss, d_loss


def main(sizes: str, mode: str) -> None:
    """Reads numbers of steps, and prints the seconds that they take."""
    options = json.loads(sizes)
    batch_size = options.pop("batch_size")
    torch.manual_seed(0)
    model = GANomaly(**options).to(memory_format=torch.channels_last)
    shape = (batch_size, options["channels"], options["size"], options["size"])
    x = (2 * torch.rand(shape) - 1).to(memory_format=torch.channels_last)
    g_weights = [*model.encoder.parameters(), *model.decoder.parameters(), *model.second_encoder.parameters()]
    d_weights = [*model.discriminator.parameters()]
    optimizers = [torch.optim.Adam(weights, 2e-4, BETAS) for weights in (g_weights, d_weights)]
    losses_of = model
    if mode == "compile":
        torch._functorch.config.donated_buffer = False  # its backward pass runs twice, once for each loss
        losses_of = torch.compile(model)

    def step() -> None:
        g_loss, d_loss = losses_of(x)
        gradients = torch.autograd.grad(g_loss, g_weights, retain_graph=True), torch.autograd.grad(d_loss, d_weights)
        for optimizer, weights, slopes in zip(optimizers, (g_weights, d_weights), gradients, strict=True):
            for weight, slope in zip(weights, slopes, strict=True):
                weight.grad = slope
            optimizer.step()

    for line in sys.stdin:
        started_at = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - started_at, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
