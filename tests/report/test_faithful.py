"""The table of what the connections are worth: there where they were looked at, with the numbers of `metrics.json`."""

from scae.report.faithful import faithful_grid, faithful_sections


def test_without_numbers_there_is_no_table() -> None:
    assert faithful_grid({"plain/fvu/0.mlp": 0.2}) is None
    assert faithful_sections({}) == []


def test_a_row_along_the_chosen_and_one_along_random_connections() -> None:
    metrics = {
        "analysis/faithfulness/rank": 0.76,
        "analysis/faithfulness_random/rank": 0.69,
        "analysis/explained/completeness": 0.98,
    }
    grid = faithful_grid(metrics)
    assert grid is not None
    assert grid.headers == ("connections", "rank", "completeness"), "columns that nobody measured are left out"
    assert [row.cells for row in grid.rows] == [("chosen", "0.760", "0.980"), ("random", "0.690", "-")]
    assert "| **chosen** | **0.760** | **0.980** |" in faithful_sections(metrics)[0]
