"""The document of benchmarks shows the latest lines of ``docs/results``."""

from benchmarks_document import ORIGIN, cells, document, section

from firstlight.scripts.benchmarks import results


def test_the_latest_line_of_each_stage_is_shown():
    line = {"setup": "ppo", "about": "plain", "row": "learn", "command": "bench stages", **ORIGIN}
    results.append("stages", {**line, "steps_per_second": [1.0], "share": [0.9]})
    new = {"steps_per_second": [3000.0, 1000.0, 2000.0], "share": [0.5, 0.25, 0.125]}
    results.append("stages", {**line, **new})
    text = section("Training time by stage")
    assert cells(text)["learn"] == ["2,000 (1,000 to 3,000)", "25.0% (12.5% to 50.0%)"]
    assert "*ppo*: plain." in text
    for part in ("a machine", "commit abc1234", "`bench stages`", "GPU: not measured."):
        assert part in text


def test_costs_of_adapter_and_views_are_shown():
    line = {"command": "bench views", "about": "plain", **ORIGIN}
    results.append("views", {**line, "row": "adapter", "ratio": [0.9, 0.8, 1.0]})
    rates = {"steps_per_second": [3000.0], "ratio": [0.75]}
    results.append("views", {**line, "row": "map", **rates})
    rows = cells(section("Cost of the adapter and of MiniGrid's views"))
    assert rows["adapter"] == ["", "0.90 (0.80 to 1.00)", "plain"]
    assert rows["map"] == ["3,000", "0.75", "plain"]


def test_the_pool_is_compared_at_its_best_and_at_equal_numbers():
    for name, num_envs, rates in (
        *(("pool", 4, [100.0, 300.0, 200.0]), ("pool", 8, [600.0])),
        *(("AsyncVectorEnv", 4, [100.0]), ("AsyncVectorEnv", 8, [150.0])),
    ):
        line = {"row": name, "num_envs": num_envs, "about": "plain", "command": "bench pools"}
        results.append("pools", {**line, "steps_per_second": rates, **ORIGIN})
    rows = cells(section("NetHack in a pool of processes"))
    assert rows["pool"][:4] == ["200 (100 to 300)", "600", "1.00", "1.00 to 1.00"]
    assert rows["AsyncVectorEnv"][:4] == ["100", "150", "4.00", "2.00 to 4.00"]


def test_speeds_of_worlds_are_shown():
    line = {"num_envs": 64, "load_average": 1.5, "command": "bench worlds", **ORIGIN}
    rates = {"steps_per_second": [2000.0, 1000.0, 3000.0], "per_processor_second": [4000.0]}
    results.append("worlds", {"row": "chain", **line, **rates})
    text = section("Worlds of our own")
    assert cells(text)["`chain`"] == ["2,000 (1,000 to 3,000)", "4,000"]
    assert "64 environments on one thread" in text
    assert "load average was 1.5." in text
    assert "`bench worlds`" in text


def test_modules_are_shown_with_and_without_a_peer():
    line = {"rollout": "4 × 4 steps", "command": "bench modules", **ORIGIN}
    ours = {f"{part}_us": [1.0, 2.0, 9.0] for part in ("compute", "update", "mixer")}
    theirs = {"peer_us": [4.0], "peer_command": "python peer.py"}
    results.append("modules", {"row": "both", **line, **ours, **theirs, "ratio": [3.0, 1.0, 2.0]})
    results.append("modules", {"row": "ours", **line, **ours})
    results.append("modules", {"row": "theirs", **line, **theirs})
    text = section("Cost of the reward modules")
    rows, common = cells(text), ["4 × 4 steps", *["2.00 (1.00 to 9.00)"] * 3]
    assert rows["both"] == [*common, "4.00", "2.00 (1.00 to 3.00)", "`python peer.py`"]
    assert rows["ours"][:4] == common
    assert "4.00" in rows["theirs"]
    for part in ("a machine", "commit abc1234", "`bench modules`", "GPU: not measured."):
        assert part in text


def test_the_latest_soak_of_each_test_is_shown():
    line = {"test": "test_survival.py::test_kills", "repeats": 20, "passed": False, "seconds": 9.0}
    results.append("soak", {**line, **ORIGIN})
    better = {"passed": True, "seconds": 93.1, "kills_of_a_living_run": 17, "mb": 3.5}
    results.append("soak", {**line, **better, **ORIGIN})
    results.append("soak", {**line, "test": "test_survival.py::test_other", **ORIGIN})
    text = section("Soak")
    rows = cells(text)
    assert rows["`test_survival.py::test_kills`"] == [
        *("20", "yes", "93", "kills of a living run 17, mb 3.5")
    ]
    assert rows["`test_survival.py::test_other`"][1] == "**no**"
    assert "`make soak`" in text
    assert "abc1234" in text


def test_unknown_and_empty_tables_have_no_section():
    results.append("notes", {"row": "something else"})
    assert "\n## " not in document()
