"""Time against the released procedure and against the floor, and agreement of the numbers in the same run."""

from __future__ import annotations

from benchmarks.contest import FLOOR, OURS, RELEASED, RELEASED_STORING, Contest
from benchmarks.measurement import Measurement, alternate, ratio, timed, times
from benchmarks.workloads import Sizes, random_documents, random_model
from crane_lib.relevance import fingerprint_weights

# float32 through 12 layers and sums that cancel: how far two right computations may be apart
AGREEMENT = {"row statistics": 1e-5, "kurtosis of rows": 1e-4, "objectives of A and B": 1e-5}


def measure_speed(sizes: Sizes) -> list[Measurement]:
    """Contestants A, B and ours on the model with the smaller vocabulary; the weights' hash apart, once a model."""
    workload = sizes.speed
    model = random_model(workload)
    contest = Contest(model, random_documents(workload), workload.token_budget)
    contest.warm_up()
    # A is the slowest by far: every other round has it without checkpointing.
    rounds = alternate(
        [
            {
                OURS: contest.ours,
                **({RELEASED_STORING: contest.released_storing} if number % 2 else {RELEASED: contest.released}),
                FLOOR: contest.floor,
            }
            for number in range(sizes.rounds)
        ]
    )
    agreement = [
        Measurement("speed", f"{name}, largest difference", value, "relative", goal=f"<= {AGREEMENT[name]}", exact=True)
        for name, value in contest.disagreement().items()
    ]
    return [
        *times("speed", rounds),
        ratio("speed", rounds, RELEASED, OURS, goal=">= 3"),
        ratio("speed", rounds, RELEASED_STORING, OURS),
        ratio("speed", rounds, OURS, FLOOR, goal="<= 1.10"),
        Measurement("speed", "hash of the weights, once a model", timed(lambda: fingerprint_weights(model)), "s"),
        Measurement("speed", "parameters", sum(weight.numel() for weight in model.parameters()) / 1e6, "million"),
        Measurement("speed", "tokens", contest.statistics.tokens, "tokens"),
        *agreement,
        Measurement("speed", "row statistics, what A's 1e-10 changes", contest.stabiliser(), "relative"),
    ]


def measure_vocabulary(sizes: Sizes) -> list[Measurement]:
    """Ours against the floor with a large vocabulary, whose logits the floor makes and ours does not."""
    workload = sizes.vocabulary
    contest = Contest(random_model(workload), random_documents(workload), workload.token_budget)
    contest.warm_up()
    rounds = alternate([{OURS: contest.ours, FLOOR: contest.floor}] * sizes.rounds)
    return [*times("vocabulary", rounds), ratio("vocabulary", rounds, OURS, FLOOR, goal="< 1")]
