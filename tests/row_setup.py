"""What the tests of rows share: prompts with responses of many lengths, values and gradients to compare."""

import torch

from algorithms.common.data.template import Example


def examples(k: int, count: int = 3, vocab: int = 1000, seed: int = 0) -> list[Example]:
    """Prompts and responses of many lengths, length 1 among them."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(5, vocab, (length,), generator=generator).tolist()

    return [Example(ids(3 + 4 * b), [ids(1 + (5 * b + 3 * i) % 9) for i in range(k)], [True] * k, None, f"record {b}")
            for b in range(count)]


def randomise(models, role: str = "policy") -> None:
    """Fresh LoRA weights have B = 0: the gradient of A would be 0 whatever the rows."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in models.role(role).parameters().items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def values_and_gradients(models, batch, role: str = "policy"):
    """Log-probabilities (B, K, T) and the gradient of a sum in which every token has a weight of its own."""
    values = models.role(role).token_logprobs(batch)
    weights = torch.linspace(-1, 1, values.numel()).view_as(values)
    parameters = {key: p for key, p in models.role(role).parameters().items() if p.requires_grad}
    gradients = torch.autograd.grad((values * weights).sum(), list(parameters.values()))
    return values.detach(), dict(zip(parameters, gradients))


def assert_same(found, wanted, tolerance: float = 1e-5):
    torch.testing.assert_close(found[0], wanted[0], atol=tolerance, rtol=0)
    scale = max(gradient.abs().max() for gradient in wanted[1].values())
    assert scale > 1e-3
    for key, gradient in wanted[1].items():
        assert (found[1][key] - gradient).abs().max() <= tolerance * scale, key
