"""Makes the gold reward of film reviews again: gold.safetensors, and what was measured of it in gold.json.

    python -m benchmarks.real.make_gold          # about 8 minutes of one CPU core

Layer and strength of the ridge are chosen on the tuning films; the accuracies reported are of evaluation films.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.real import films
from benchmarks.real.gold import HEAD, FilmGold, Head, describe, load_model, read
from benchmarks.real.smollm2 import made

LAYERS, RIDGES = (10, 15, 20), (0.03, 0.1, 0.3)
TRAIN, TUNING, EVALUATION, PAIRS = 1600, 400, 400, 120
PRAISE = " One of the best films of the year: warm, funny and beautifully acted."
DEGENERATE = {
    "' great' × 20": " great" * 20, "empty": "", "a full stop": ".",
    "a list of superlatives":
        " superb, brilliant, wonderful, great, amazing, perfect, stunning, best, excellent, lovely",
    "one sentence of praise": PRAISE, "the same three times": PRAISE * 3,
    "off topic": " Chop the onions, fry them in butter and add the rice and the stock.",
    "negated praise": " It is not funny, not moving and never as clever as it thinks it is.",
    "negated blame": " It is never dull, and not a minute of it is wasted.",
    "entertaining and not too heavy-handed": " one that is entertaining and not too heavy-handed.",
}


def fit(states: Tensor, labels: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logistic regression on standardised states, (N, H) and (N,) of 0 and 1: mean, scale, weight, bias.

    The classes count the same, so that a log-odds of 0 is neutral whatever their shares.
    """
    mean, scale = states.mean(0), states.std(0).clamp_min(1e-6)  # (H,) each
    inputs = (states - mean) / scale
    weights = torch.where(labels > 0, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))  # (N,)
    weight, bias = torch.zeros(states.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    steps = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        value = binary_cross_entropy_with_logits(inputs @ weight + bias, labels, weights) + ridge / 2 * weight @ weight
        value.backward()
        return value

    steps.step(loss)
    return mean, scale, weight.detach(), bias.detach()


def make(folder: Path, path: str | None = None, base: str | None = None, layers: tuple[int, ...] = LAYERS) -> dict:
    """Write gold.safetensors and gold.json into ``folder``; what was measured.

    path, base: a file of reviews and an untuned model's folder; None: the package's and SmolLM2's.
    """
    base = str(made()) if base is None else base
    model, tokenizer = load_model(base)
    split = films.reviews(path)
    parts = {"train": split["train"][:TRAIN], "tuning": split["tuning"][:TUNING],
             "evaluation": split["evaluation"][:EVALUATION]}
    readings, labels = {}, {}
    for name, reviews in parts.items():
        texts = ([one.prompt for one in reviews], [one.response for one in reviews])
        readings[name] = read(model, tokenizer, *texts, list(layers))
        labels[name] = torch.tensor([float(one.fresh) for one in reviews])  # (N,)
    tried = {}
    for place, layer in enumerate(layers):
        for ridge in RIDGES:
            head = Head(layer, *fit(readings["train"].states[:, place], labels["train"], ridge), torch.zeros(2))
            tried[layer, ridge] = accuracy(head, readings["tuning"].states[:, place], labels["tuning"]), head
    layer, ridge = max(tried, key=lambda one: tried[one][0])
    human = readings["train"].nll  # (N,)
    fluent = torch.quantile(human, torch.tensor([0.025, 0.975]))
    head = tried[layer, ridge][1]._replace(fluent=fluent)
    save_file({"layer": torch.tensor(layer), **{key: value.contiguous() for key, value in head._asdict().items()
                                                if key != "layer"}}, folder / HEAD.name)
    states = readings["evaluation"].states[:, layers.index(layer)]
    told = {"layer": layer, "ridge": ridge, "train": len(parts["train"]),
            "accuracy on tuning films": {f"layer {one[0]}, ridge {one[1]}": round(value[0], 4)
                                         for one, value in tried.items()},
            "accuracy": {"single reviews": round(accuracy(head, states, labels["evaluation"]), 4), "n": len(states)},
            "nll of human reviews": {"mean": human.mean().item(), "sd": human.std().item(), "low": fluent[0].item(),
                                     "high": fluent[1].item()}}
    told |= calibrated(FilmGold(base, str(folder / HEAD.name)), split["evaluation"])
    describe(folder / "gold.json", told)
    return told


def accuracy(head: Head, states: Tensor, labels: Tensor) -> float:
    return ((head.log_odds(states) > 0) == (labels > 0)).float().mean().item()


def calibrated(gold: FilmGold, unseen: list[films.Review]) -> dict:
    """What gold says of pairs of one film, of human reviews and of texts that are none."""
    pairs = films.same_film(unseen)[:PAIRS]
    good, bad = ([pair[side] for pair in pairs] for side in (0, 1))
    prompts = [one.prompt for one in good]

    def shown(texts: list[str], finished: bool = True, prompts: list[str] = prompts) -> tuple[dict, list[float]]:
        z, nll = gold.measured(prompts, texts)
        values = gold.of(z, nll, texts, [finished] * len(texts))
        return {"gold": _mean(values), "z": _mean(z), "nll": _mean(nll), "n": len(texts)}, values

    fresh, above = shown([one.response for one in good])
    rotten, below = shown([one.response for one in bad], prompts=[one.prompt for one in bad])
    words = random.Random(0)
    shuffled = [" " + " ".join(words.sample(one.response.split(), len(one.response.split()))) for one in good]
    texts = {"human, fresh": fresh, "human, rotten": rotten, "the fresh ones, words shuffled": shown(shuffled)[0],
             "… cut in the middle, no end": shown([one.response[:len(one.response) // 2] for one in good], False)[0]}
    few = prompts[:24]
    texts |= {name: shown([text] * len(few), prompts=few)[0] for name, text in DEGENERATE.items()}
    won = [float(a > b) for a, b in zip(above, below)]
    return {"fresh above rotten, same film": {"share": _mean(won), "n": len(won)}, "texts": texts}


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HEAD.parent)
    print(make(parser.parse_args().folder))
