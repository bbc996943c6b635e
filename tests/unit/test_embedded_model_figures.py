"""What the benchmark of the embedded model makes of its rounds."""

from benchmarks.embedded_model import Measured, prompts_of, summary


def round_of(bare: float, ours: float) -> tuple[Measured, Measured]:
    """Tokens per second of both ways, 100 tokens each."""
    return (
        Measured(tokens=100, seconds=100 / bare, cpu_s=1.0),
        Measured(tokens=100, seconds=100 / ours, cpu_s=2.0),
    )


def test_the_ratio_is_of_each_round_so_that_a_slow_moment_meets_both() -> None:
    found = summary([round_of(50, 49), round_of(10, 9.5), round_of(20, 30)])
    assert found["ratios"] == [0.98, 0.95, 1.5]
    assert found["ratio"] == 0.98
    assert (found["bare_tokens_per_s"], found["turnlog_tokens_per_s"]) == (20, 30)
    assert (found["bare_cpu_ms_per_token"], found["turnlog_cpu_ms_per_token"]) == (10, 20)
    assert found["tokens"] == 600


def test_no_way_finds_what_it_has_read_before() -> None:
    prompts = [prompt for number in range(10) for prompt in prompts_of(number, 4)]
    assert len(set(prompts)) == len(prompts)
