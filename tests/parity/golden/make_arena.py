"""Golden ratings of evalica 0.4.2 and arena-rank 0.1.1 (`make peer-arena`) on tests/data/llmfao.csv and on simulated votes.

.venv/peers/arena/bin/python tests/parity/golden/make_arena.py
"""

import json
from pathlib import Path

import evalica
import numpy as np
import pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.models.contextual_bradley_terry import ContextualBradleyTerry
from arena_rank.utils.data_utils import ContextualPairDataset, PairDataset

HERE = Path(__file__).parent
WINNERS = {"left": evalica.Winner.X, "right": evalica.Winner.Y, "tie": evalica.Winner.Draw}


def simulated(models=12, votes=20_000, seed=5):
    """The same votes as tests/parity/test_arena.py makes."""
    generator = np.random.default_rng(seed)
    skill = generator.normal(0, 1, models)
    first = generator.integers(0, models, votes)
    second = (first + generator.integers(1, models, votes)) % models
    style = generator.normal(0, 1, (votes, 2)).round(6)
    chance = 1 / (1 + np.exp(skill[second] - skill[first] - style @ np.array([0.4, -0.2])))
    luck = generator.random(votes)
    outcome = np.where(luck < 0.9 * chance, 0, np.where(luck < 0.9 * chance + 0.1, 1, 2))
    names = [f"model-{i:02}" for i in range(models)]
    return pd.DataFrame(
        {
            "left": [names[i] for i in first], "right": [names[i] for i in second],
            "winner": np.array(["left", "tie", "right"])[outcome], "length": style[:, 0], "bold": style[:, 1],
        }
    )  # fmt: skip


def ratings(frame):
    result = evalica.bradley_terry(
        frame["left"], frame["right"], [WINNERS[w] for w in frame["winner"]], tolerance=1e-15, limit=1_000_000
    )
    logs = np.log(result.scores)
    outcome_map = {"left": 1.0, "right": 0.0, "tie": 0.5}.get
    data = PairDataset.from_pandas(frame, competitor_cols=["left", "right"], outcome_map=outcome_map)
    # hessian_reg is for its intervals: less than this and its inverse of a singular matrix is noise
    model = BradleyTerry(
        len(data.competitors),
        ftol=0.0,
        gtol=1e-13,
        max_iter=20_000,
        hessian_reg=1e-8,
        scale=1.0,
        base=np.e,
        init_rating=0.0,
    )
    arena = model.compute_ratings_and_cis(data)
    rating = np.asarray(arena["ratings"])
    return {
        "evalica": (logs - logs.mean()).to_dict(),
        "arena_rank": dict(zip(data.competitors, (rating - rating.mean()).tolist(), strict=True)),
        "arena_rank_half": dict(
            zip(data.competitors, (np.asarray(arena["rating_upper"]) - rating).tolist(), strict=True)
        ),
    }


def style(frame):
    data = ContextualPairDataset.from_pandas(
        frame,
        ["length", "bold"],
        ["left", "right"],
        outcome_map={"left": 1.0, "right": 0.0, "tie": 0.5}.get,
        reweighted=False,
    )
    model = ContextualBradleyTerry(
        len(data.competitors),
        2,
        reg=0.0,
        hessian_reg=1e-12,
        ftol=0.0,
        gtol=1e-13,
        max_iter=20_000,
        scale=1.0,
        base=np.e,
        init_rating=0.0,
    )
    found = model.compute_ratings_and_cis(data)
    rating = np.asarray(found["ratings"])
    return {
        "ratings": dict(zip(data.competitors, (rating - rating.mean()).tolist(), strict=True)),
        "style": np.asarray(found["coeffs"]).tolist(),
    }


if __name__ == "__main__":
    real = pd.read_csv(HERE.parents[1] / "data" / "llmfao.csv")
    made = simulated()
    golden = {"llmfao": ratings(real), "simulated": ratings(made), "style": style(made)}
    (HERE / "arena.json").write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
