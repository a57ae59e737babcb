"""A made-up report with every key, for the tests of what people see."""

from __future__ import annotations

from typing import Any


def _metric(value: float, half_width: float = 0.008, n: int = 2000) -> dict[str, float]:
    return {"value": value, "low": value - half_width, "high": value + half_width, "n": n}


def _release(
    name: str, alone: float, after: float, sigma: float, steps: int = 1, left: bool = True
) -> dict[str, Any]:
    return {
        "name": name,
        "epsilon_alone": alone,
        "epsilon_after": after,
        "noise_multiplier": sigma,
        "sampling_probability": 0.25 if steps > 1 else 1.0,
        "steps": steps,
        "left_the_client": left,
    }


def example_report() -> dict[str, Any]:
    """Made-up figures of a plausible shape; they were measured nowhere."""
    return {
        "metrics": {"recall@10": _metric(0.1812), "recall@20": _metric(0.2544), "ndcg@10": _metric(0.0951)},
        "baselines": {
            "popularity": {
                "recall@10": _metric(0.0931),
                "recall@20": _metric(0.1501),
                "ndcg@10": _metric(0.0474),
            },
            "random": {"recall@10": _metric(0.01), "recall@20": _metric(0.02), "ndcg@10": _metric(0.0045)},
        },
        "privacy": {
            "epsilon": 7.941,
            "epsilon_budget": 8.0,
            "delta": 1e-5,
            "unit": "user",
            "noise": "distributed",
            "mode": "on",
            "releases": [
                _release("popularity", 1.02, 1.02, 5.1),
                _release("statistics", 5.11, 5.32, 1.12),
                _release("gradients", 3.87, 7.21, 1.9, steps=20),
                _release("encoder fit", 1.4, 7.6, 1.5, steps=60, left=False),
                _release("metrics", 1.6, 7.941, 3.4),
            ],
        },
        "left_the_client": {
            "masked_update": 38_412_800,
            "masked_statistics": 2_621_440,
            "keys": 184_320,
            "masked_popularity": 40_960,
            "masked_metrics": 10_240,
            "user_encoder": 0,
        },
        "series": [
            {
                "round": round_number,
                "release": "statistics" if round_number == 0 else "gradients",
                "recall@10": _metric(0.13 + 0.05 * round_number / (round_number + 4)),
            }
            for round_number in range(21)
        ],
        "lists": [
            {
                "user": f"user-{user}",
                "history": ["The Quiet Harbour", "Salt & Iron", "A Winter <Garden>"],
                "recommendations": [
                    {
                        "title": title,
                        "score": 0.9 - 0.1 * rank,
                        "probability": 0.08 - 0.01 * rank,
                        "reason": "often after Salt & Iron",
                    }
                    for rank, title in enumerate(
                        ["Iron Tide", "The Long Lamp", "Harbour Lights", "Low | Water", "North by Night"]
                    )
                ],
            }
            for user in (17, 404, 1203)
        ],
        "cleaning": [
            {"step": "missing ids", "dropped": 0, "kept": 100_250},
            {"step": "exact duplicates", "dropped": 250, "kept": 100_000},
        ],
        "simulation": {"exact_metrics": {"recall@10": {"value": 0.1823}, "ndcg@10": 0.0949}},
        "item_tower_sha256": "9f" * 32,
        "catalogue_sha256": "1c" * 32,
        "seed": 12345,
        "clients": 5,
        "users": 2000,
        "items": 1000,
        "scenario": {"recipe": "hybrid", "encoder": "attention", "noise": "distributed"},
        "dropouts": [{"client": "client-3", "message": "train.release", "reason": "no answer in 300 s"}],
        "seconds": {
            "popularity": 0.4,
            "statistics": 3.2,
            "gradients": 31.9,
            "encoder_fit": 12.0,
            "metrics": 1.1,
        },
        "version": "0.1.0",
    }
