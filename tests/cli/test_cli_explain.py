"""``anomgan explain`` as people and scripts use it: a trained model and rows on disk."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan_cli.app import app

NUMBERS = ("speed_rpm", "load_pct", "power_kw", "temperature_c", "vibration_mm_s")


def run(*arguments, **options):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], **options)


def explained(*arguments, **options):
    result = run(*arguments, "--json", **options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["rows"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def new(machine_files):
    return machine_files[1]


@pytest.fixture(scope="module")
def scored(new, machine_model, tmp_path_factory):
    """What `anomgan score` says of the same rows."""
    output = tmp_path_factory.mktemp("scored") / "scores.parquet"
    arguments = ["score", str(new), "-m", str(machine_model), "-o", str(output), "-q"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return pl.read_parquet(output)


def columns_of(why):
    return {column["column"]: column for column in why["columns"]}


def test_the_numbers_are_those_of_score_and_sum_up(new, machine_model, scored):
    wanted = [1, 117, 200, 60]
    rows = explained(new, "-m", machine_model, *(f"--row={n}" for n in wanted))
    assert [why["row"] for why in rows] == wanted
    for why in rows:
        expected = scored.row(why["row"] - 1, named=True)
        assert why["id"] == expected["record_id"]
        assert why["score"] == expected["score"]
        assert why["p_value"] == expected["p_value"]
        assert why["is_anomaly"] == expected["is_anomaly"]
        parts = [column["contribution"] for column in why["columns"]]
        assert parts == sorted(parts, reverse=True)
        total = sum(parts) + why["discriminator"]["contribution"]
        assert total == pytest.approx(why["score"], rel=1e-4)
        shares = sum(c["share"] for c in why["columns"]) + why["discriminator"]["share"]
        assert shares == pytest.approx(1.0, rel=1e-4)
        assert set(columns_of(why)) == {"time", "machine", "mode", "door_open", *NUMBERS}


def test_what_is_explained_without_asking_is_the_highest_score(new, machine_model, scored):
    order = scored.sort("score", descending=True, maintain_order=True)["row"].to_list()
    assert [why["row"] for why in explained(new, "-m", machine_model)] == order[:1]
    rows = explained(new, "-m", machine_model, "--top", 4)
    assert [why["row"] for why in rows] == order[:4]


def test_rows_are_found_by_their_identifier(new, machine_model, scored):
    names = scored["record_id"]
    rows = explained(new, "-m", machine_model, "--id", names[150], "--id", names[3])
    assert [(why["row"], why["id"]) for why in rows] == [(151, names[150]), (4, names[3])]


def test_cells_are_as_in_the_file(new, machine_model):
    frame = pl.read_csv(new, infer_schema=False)
    for why in explained(new, "-m", machine_model, "--row", 5, "--row", 180):
        for name, column in columns_of(why).items():
            cell = frame[name][why["row"] - 1]
            if cell is None:
                assert column["observed"] is None
            elif name in NUMBERS:
                assert column["observed"] == float(cell)
            elif name == "door_open":
                assert column["observed"] == (cell == "True")
            else:
                assert column["observed"] == cell
            assert (column["expected"] is None) == (name == "time")


def test_faults_show_in_the_column_that_is_guilty(new, machine_model):
    """Rows 101 to 200 are faulty; what is wrong with them is planted (see machine_log)."""
    rows = explained(new, "-m", machine_model, *(f"--row={n}" for n in range(101, 201)))
    frame = pl.read_csv(new)
    unseen = [why for why in rows if columns_of(why)["mode"]["observed"] == "welding"]
    assert len(unseen) == 20
    for why in unseen:
        mode = columns_of(why)["mode"]
        assert mode["note"] == "never seen in training"
        assert mode["expected"]["value"] in ("idle", "cutting", "drilling", "polishing")
        assert mode["expected"]["weight"] > 0.3
    right = []
    for why in unseen:  # the other columns tell what the machine was doing
        speed = frame["speed_rpm"][why["row"] - 1]
        if speed is None:
            continue
        modes = {"idle": 300, "cutting": 1800, "drilling": 1200, "polishing": 3000}
        true = min(modes, key=lambda mode: abs(modes[mode] - speed))
        right.append(columns_of(why)["mode"]["expected"]["value"] == true)
    assert np.mean(right) > 0.8
    opened = frame[100:].filter(pl.col("door_open") & (pl.col("speed_rpm") > 900)).height
    shut = [
        columns_of(why)["door_open"]["expected"]["value"] is False
        for why in rows
        if columns_of(why)["door_open"]["observed"]
        and (columns_of(why)["speed_rpm"]["observed"] or 0) > 900
    ]
    assert len(shut) == opened
    assert np.mean(shut) > 0.9
    heat = []
    for why in rows:  # a hot machine: temperature follows power
        columns = columns_of(why)
        heat_, power = columns["temperature_c"]["observed"], columns["power_kw"]["observed"]
        if heat_ is None or power is None or heat_ - (24.0 + 2.2 * power) < 9.0:
            continue
        expected = columns["temperature_c"]["expected"]["value"]
        heat.append(abs(expected - (24.0 + 2.2 * power)) < heat_ - expected)
    assert len(heat) > 10
    assert np.mean(heat) > 0.9


def test_a_permuted_cell_lies_further_off_than_the_expected_one(new, machine_model, here):
    truth = pl.read_csv(new).head(100)
    rng = np.random.default_rng(0)
    nearer = []
    for name in NUMBERS:
        permuted = truth.with_columns(truth[name].gather(rng.permutation(100)))
        permuted.write_csv("permuted.csv")
        rows = explained(
            *("permuted.csv", "-m", machine_model, "--neighbours", 0),
            *(f"--row={n}" for n in range(1, 101)),
        )
        for why, true in zip(rows, truth[name], strict=True):
            column = columns_of(why)[name]
            expected, observed = column["expected"]["value"], column["observed"]
            if None in (true, expected, observed) or true == observed:
                continue
            nearer.append(abs(expected - true) < abs(observed - true))
    assert len(nearer) > 400
    assert np.mean(nearer) > 0.75


def test_nearest_rows_are_normal_rows_of_the_training_table(new, machine_model, machine_files):
    train = pl.read_csv(machine_files[0])
    (why,) = explained(new, "-m", machine_model, "--row", 12, "--neighbours", 5)
    assert len(why["neighbours"]) == 5
    distances = [near["distance"] for near in why["neighbours"]]
    assert distances == sorted(distances)
    for near in why["neighbours"]:
        assert near["rows"] >= 1
        same = pl.lit(value=True)
        for name, value in near["values"].items():
            if name == "time":
                continue
            cell = pl.col(name)
            if value is None:
                same &= cell.is_null()
            elif name in NUMBERS:
                same &= (cell - value).abs() < 1e-4
            else:
                same &= cell == value
        assert train.filter(same).height >= 1


def test_people_read_a_table_and_sentences(new, machine_model, scored):
    result = run(new, "-m", machine_model, "--row", 117)
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert f"{new}, row 117 ({scored['record_id'][116]}): score " in text
    assert "at the model's false-alarm rate of 0.01 (score from " in text
    assert "normal row" in text.splitlines()[1]
    for wanted in ("expected", "10 to 90 %", "% of score", "normal row 3", "training rows like it"):
        assert wanted in text
    assert "The columns together: what the networks hold against the row as a whole" in text
    assert result.stderr == ""
    both = run(new, "-m", machine_model, "--row", 117, "--row", 3, "--neighbours", 0).stdout
    assert "row 3 (" in both
    assert "nearest normal rows" not in both


def test_stdin_compression_and_dialect(new, machine_model, here):
    expected = explained(new, "-m", machine_model, "--row", 20)
    assert explained("-", "-m", machine_model, "--row", 20, input=new.read_bytes()) == expected
    (here / "new.csv.gz").write_bytes(gzip.compress(new.read_bytes()))
    assert explained("new.csv.gz", "-m", machine_model, "--row", 20) == expected
    pl.read_csv(new, infer_schema=False).write_csv("semi.csv", separator=";")
    arguments = ["semi.csv", "-m", machine_model, "--row", 20, "--delimiter", ";"]
    assert explained(*arguments, "--encoding", "utf-8", "--provider", "cpu") == expected


def test_a_bare_scorer_and_a_model_without_rows_give_contributions_alone(
    new, machine_model, machine_files, here
):
    whole = explained(new, "-m", machine_model, "--row", 9)
    result = run(new, "-m", machine_model / "scorer.onnx", "--row", 9, "--json")
    assert result.exit_code == 0, result.output
    assert "A scorer on its own keeps no normal rows" in result.stderr
    (why,) = json.loads(result.stdout)["rows"]
    assert why["score"] == whole[0]["score"]
    assert why["neighbours"] == []
    assert all(column["expected"] is None for column in why["columns"])
    quiet = run(new, "-m", machine_model / "scorer.onnx", "--row", 9, "-q")
    assert quiet.stderr == ""
    assert "expected" not in quiet.stdout
    toy_bundle("anomgan-model")
    toy_table(20, seed=1).write_csv("new.csv")
    result = run("new.csv", "--row", 2)
    assert result.exit_code == 0, result.output
    assert "anomgan-model, of an earlier format, keeps no normal rows" in result.stderr


def test_what_cannot_be_explained_ends_with_2_and_a_remedy(new, machine_model, here):
    def refused(*arguments):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.stderr
        return result.stderr

    message = refused(new, "-m", machine_model, "--row", 201)
    assert "has 200 rows" in message
    assert "give a number from 1 to 200" in message
    assert "--id nobody: no such row" in refused(new, "-m", machine_model, "--id", "nobody")
    assert "use one of them" in refused(new, "-m", machine_model, "--row", 1, "--top", 2)
    assert "new.csv" in refused("absent/new.csv", "-m", machine_model)
    assert "anomgan fit" in refused(new, "-m", "nothing-here")
    frame = pl.read_csv(new, infer_schema=False)
    power = frame["power_kw"].to_list()
    power[6] = "12,5"
    frame.with_columns(power_kw=pl.Series(power)).write_csv("broken.csv")
    message = refused("broken.csv", "-m", machine_model, "--row", 7)
    assert "row 7 (line 8), column 'power_kw'" in message
    assert "12,5" in message
    result = run("broken.csv", "-m", machine_model, "--top", 1)
    assert result.exit_code == 0
    assert "1 row could not be read" in result.stderr
    frame.drop("power_kw").write_csv("short.csv")
    message = refused("short.csv", "-m", machine_model, "--row", 7)
    assert "column 'power_kw' is missing" in message


def test_damaged_normal_rows_are_told_with_a_way_on(new, machine_model, here):
    from anomgan.bundle import Bundle

    bundle = Bundle.open(machine_model)
    files = {name: bundle.read(name) for name in bundle.names} | {"scoring.json": b"{}"}
    Bundle.save("anomgan-model", files=files, manifest=bundle.manifest)
    result = run(new, "--row", 1)
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
    assert "-m anomgan-model/scorer.onnx" in result.stderr.replace("\n", " ")


def test_strange_cells_stay_on_their_line(here):
    toy_bundle("anomgan-model")
    toy_table(3, seed=1).with_columns(
        mode=pl.Series(["run", "a\x1b[31mred\nline", "x" * 200])
    ).write_csv("new.csv")
    text = run("new.csv", "--row", 2, "--row", 3, "-q").stdout
    assert "\x1b[31m" not in text
    assert "'a\\x1b[31mred\\nline'" in text
    assert "x" * 39 + "…" in text
