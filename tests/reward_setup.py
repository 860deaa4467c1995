"""Responses, and reward sources to score them."""

from algorithms.common.algorithm import Response, RewardSource

MESSAGES = [{"role": "user", "content": "How was it?"}]


def response(text=" was good", prompt=" the room", record="r0", finished=True, **more) -> Response:
    return Response(prompt, text, [5, 6], [7, 8, 2], finished, record, **more)


def words(prompts: list[str], responses: list[str], weight: float = 1.0) -> list[float]:
    return [weight * len(f"{x}{y}".split()) for x, y in zip(prompts, responses, strict=True)]


def opened(source: RewardSource, models=None, folders=None, data=None, batch_size=2):
    return source.open(models, folders or {}, data, batch_size)
