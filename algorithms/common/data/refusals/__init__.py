"""Refusals against made-up answers: their wording and pairs, data made of questions, and of a model's own failures."""
