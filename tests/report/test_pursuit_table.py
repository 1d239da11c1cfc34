"""The table of codes that were searched for: there where there are any, with the numbers of `metrics.json`."""

from scae.report.pursuit import pursuit_sections


def test_without_a_search_there_is_no_table() -> None:
    assert pursuit_sections({"plain/fvu/0.mlp": 0.2, "plain/l0/0.mlp": 8.0}) == []


def test_a_row_a_site_in_order_and_their_mean() -> None:
    metrics = {f"plain/fvu/{layer}.mlp": 0.01 * layer for layer in (2, 10)}
    metrics |= {f"pursuit/fvu/{layer}.mlp": 0.005 * layer for layer in (10, 2)}
    metrics |= {f"{arm}/l0/{layer}.mlp": 8.0 + layer for arm in ("plain", "pursuit") for layer in (2, 10)}
    _, table = pursuit_sections(metrics | {"pursuit/fvu_mean": 0.03})
    head, _, *rows = table.replace("*", "").splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][1:3] == ["FVU, encoder", "FVU, search"]
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        ["2.mlp", "0.020", "0.010", "10.0", "10.0"],
        ["10.mlp", "0.100", "0.050", "18.0", "18.0"],
        ["mean", "0.060", "0.030", "14.0", "14.0"],
    ]
