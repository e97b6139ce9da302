"""Tables: what is read, how it is encoded and restored, how it is split, and which files are refused."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from helpers import load

import train
from datamodules import TableDataModule
from gen_lightning.contracts import ExampleData, ScaledData, TableData, WrittenData, offers
from gen_lightning.errors import UserError

N = 200


def make_table(n=N):
    """Return columns of every kind: integers, decimals, continuous numbers, text and booleans."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 60, n),
            "city": rng.choice(["Bern", "Tokyo", "São Paulo, SP"], n),
            "price": rng.integers(0, 9, n) / 4,
            "member": rng.random(n) < 0.3,
            "height": rng.normal(170, 10, n),
            "zip": [f"0{number}" for number in rng.integers(10, 15, n)],
        }
    )


def write(path, table=None):
    table = make_table() if table is None else table
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


def set_up(path, **arguments):
    data = TableDataModule(str(path), **{"batch_size": 8, **arguments})
    data.setup("fit")
    return data


@pytest.mark.parametrize("numbers", ["quantile", "standardize"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_every_row_is_restored_with_its_types_and_written_like_the_file(suffix, numbers, tmp_path):
    path = write(tmp_path / f"table{suffix}")
    data = set_up(path, numbers=numbers)
    expected = make_table() if suffix == ".parquet" else make_table().astype({"member": str})
    rows = [data.restore_table(data.splits[split].data) for split in ("train", "val", "test")]
    # The order within the file is lost, and float32 rounds the continuous numbers.
    restored = pd.concat(rows).sort_values("height", ignore_index=True)
    expected = expected.sort_values("height", ignore_index=True)
    held_out_tails = 5.0 if numbers == "quantile" else 1e-2
    pd.testing.assert_frame_equal(restored.drop(columns="height"), expected.drop(columns="height"))
    np.testing.assert_allclose(restored["height"], expected["height"], atol=held_out_tails)
    with (tmp_path / f"samples{data.samples_suffix}").open("wb") as file:
        data.write_samples(data.splits["train"].data, file)
    read = set_up(tmp_path / f"samples{suffix}", numbers=numbers)
    assert list(read.restore_table(read.splits["train"].data).dtypes) == list(restored.dtypes)
    assert list(read.restore_table(read.splits["train"].data)) == list(make_table())


def test_features_are_numbers_then_one_hot_categories(tmp_path):
    data = set_up(write(tmp_path / "table.csv"))
    places = {column.name: (column.first, column.size) for column in data.columns}
    assert places == {"age": (0, 1), "price": (1, 1), "height": (2, 1), "city": (3, 3), "member": (6, 2), "zip": (8, 5)}
    assert data.shape == (13,)
    rows = data.splits["train"].data
    assert rows.dtype == torch.float32
    assert torch.isin(rows[:, 3:], torch.tensor([0.0, 1.0])).all()
    assert torch.equal(rows[:, 3:].sum(1), torch.full((160,), 3.0))
    assert [len(column.levels) > 0 for column in data.columns] == [True, True, False, False, False, False]
    for contract in (TableData, ExampleData, WrittenData):
        assert offers(data, contract)
    assert not offers(data, ScaledData)


def test_scores_are_normal_quantiles_of_the_ranks_of_training_rows(tmp_path):
    data = set_up(write(tmp_path / "table.csv"))
    rows, table = data.splits["train"].data, data.restore_table(data.splits["train"].data)
    for index, name in enumerate(["age", "price", "height"]):
        # The rank of tied numbers is their mean rank.
        expected = scipy.stats.norm.ppf((scipy.stats.rankdata(table[name]) - 0.5) / len(table))
        np.testing.assert_allclose(rows[:, index], expected, atol=1e-5)


def test_the_scores_between_two_edges_have_the_probability_of_the_level(tmp_path):
    data = set_up(write(tmp_path / "table.csv"))
    age = data.columns[0]
    probabilities = np.diff(scipy.stats.norm.cdf([-np.inf, *age.edges.double(), np.inf]))
    ages = data.restore_table(data.splits["train"].data)["age"].value_counts(normalize=True).sort_index()
    np.testing.assert_allclose(probabilities, ages, atol=1e-6)


def test_standard_normal_scores_have_the_distribution_of_the_training_rows(tmp_path):
    data = set_up(write(tmp_path / "table.csv", make_table(5000)))
    torch.manual_seed(0)
    samples = data.restore_table(torch.cat([torch.randn(4000, 3), torch.zeros(4000, 10)], 1))
    table = data.restore_table(data.splits["train"].data)
    for name in ("age", "price", "height"):
        assert scipy.stats.ks_2samp(samples[name], table[name]).pvalue > 1e-3


def test_standardized_numbers_have_mean_0_and_variance_1_and_edges_half_way(tmp_path):
    data = set_up(write(tmp_path / "table.csv"), numbers="standardize")
    numbers = data.splits["train"].data[:, :3].double()
    torch.testing.assert_close(numbers.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(3).double(), rtol=0, atol=1e-5)
    age = data.columns[0]
    torch.testing.assert_close(age.edges, (age.levels[1:] + age.levels[:-1]) / 2)


def test_numbers_outside_the_training_rows_become_the_nearest_that_these_have(tmp_path):
    data = set_up(write(tmp_path / "table.csv"))
    rows = torch.zeros(2, 13)
    rows[:, :3] = torch.tensor([-50.0, 50.0])[:, None]
    restored = data.restore_table(rows)
    table = data.restore_table(data.splits["train"].data)
    for name in ("age", "price", "height"):
        assert restored[name].tolist() == pytest.approx([table[name].min(), table[name].max()])
    wide = make_table().assign(age=99)
    other = set_up(tmp_path / "table.csv", test_path=write(tmp_path / "wide.csv", wide))
    assert set(other.restore_table(other.splits["test"].data)["age"]) == {table["age"].max()}


def test_splits_are_stratified_by_the_target_whose_classes_are_the_labels(tmp_path):
    data = set_up(write(tmp_path / "table.csv"), target="city", val_fraction=0.25, test_fraction=0.25)
    shares = []
    for split in ("train", "val", "test"):
        rows, labels = data.splits[split]
        assert torch.equal(rows[:, 3:6].argmax(1), labels)
        shares.append(labels.bincount(minlength=3) / len(labels))
    for share in shares[1:]:
        torch.testing.assert_close(share, shares[0], rtol=0, atol=0.05)


def test_columns_are_chosen_left_out_or_made_categories(tmp_path):
    path = write(tmp_path / "table.csv")
    assert [column.name for column in set_up(path, columns=["city", "age"]).columns] == ["age", "city"]
    data = set_up(path, exclude=["height", "zip"], categories=["age"])
    assert [(column.name, column.size > 1) for column in data.columns] == [
        ("price", False),
        ("age", True),
        ("city", True),
        ("member", True),
    ]
    restored = data.restore_table(data.splits["train"].data)
    assert list(restored) == ["age", "city", "price", "member"]
    assert restored["age"].dtype == np.int64


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_values_are_refused_dropped_or_a_category(suffix, tmp_path):
    table = make_table()
    table.loc[::10, "city"] = None
    path = write(tmp_path / f"table{suffix}", table)
    with pytest.raises(UserError, match=r"Values are missing in .*: 20 in `city`\. Add .*missing drop.*category"):
        set_up(path)
    dropped = set_up(path, missing="drop")
    assert sum(len(split.data) for split in dropped.splits.values()) == 180
    kept = set_up(path, missing="category")
    restored = pd.concat([kept.restore_table(split.data) for split in kept.splits.values()])
    assert restored["city"].isna().sum() == 20
    with (tmp_path / f"samples{suffix}").open("wb") as file:
        kept.write_samples(torch.cat([split.data for split in kept.splits.values()]), file)
    assert set_up(tmp_path / f"samples{suffix}", missing="category").columns[3].size == 4


def test_missing_numbers_are_never_a_category(tmp_path):
    table = make_table()
    table["age"] = table["age"].astype("Int64")
    table.loc[:2, "age"] = None
    path = write(tmp_path / "table.csv", table)
    with pytest.raises(UserError, match=r"3 in `age`"):
        set_up(path, missing="category")
    data = set_up(path, missing="drop")
    assert data.restore_table(data.splits["train"].data)["age"].dtype == np.int64
    codes = set_up(path, missing="category", categories=["age"])
    restored = pd.concat([codes.restore_table(split.data) for split in codes.splits.values()])
    assert (restored["age"].dtype, restored["age"].isna().sum()) == ("Int64", 3)


def test_decimals_of_samples_are_those_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"weight": rng.normal(3, 1, 3000).round(2), "city": rng.choice(["a", "b"], 3000)})
    data = set_up(write(tmp_path / "table.csv", table), numbers="standardize")
    weights = data.restore_table(torch.randn(50, 3))["weight"]
    assert (weights == weights.round(2)).all()
    assert (weights != weights.round(1)).any()


def test_identity_depends_on_content_and_encoding_only(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path / "one.csv")
    identity = TableDataModule(path).identity
    assert identity == TableDataModule(write(tmp_path / "elsewhere/two.csv"), batch_size=7, seed=3).identity
    others = [{"numbers": "standardize"}, {"exclude": ["age"]}, {"target": "city"}, {"val_fraction": 0.2}]
    others += [{"categories": ["age"]}, {"missing": "drop"}, {"columns": ["age", "city"]}, {"test_path": path}]
    assert len({identity, *(TableDataModule(path, **one).identity for one in others)}) == 9


def test_a_checkpoint_brings_the_encoding_of_its_training_rows(tmp_path):
    data = set_up(write(tmp_path / "one.csv"))
    table = make_table()
    table["height"] += 100
    other = set_up(write(tmp_path / "two.csv", table))
    before = other.splits["train"].data.clone()
    state = json.loads(json.dumps(data.state_dict()))
    other.load_state_dict(state)
    assert not torch.equal(other.splits["train"].data, before)
    assert other.columns[2].first == data.columns[2].first
    torch.testing.assert_close(other.splits["train"].data[:, 2].amin(), data.splits["train"].data[:, 2].amax())
    # Without a file, as in `sample`.
    alone = TableDataModule(shape=data.shape)
    alone.load_state_dict(state)
    assert alone.shape == (13,)
    restored = alone.restore_table(data.splits["test"].data)
    pd.testing.assert_frame_equal(restored, data.restore_table(data.splits["test"].data))


def damage(change):
    def apply(state):
        change(state)
        return state

    return apply


DAMAGED = {
    "empty": lambda state: {},
    "no list": lambda state: state | {"columns": 3},
    "no columns": lambda state: state | {"columns": [], "order": []},
    "another ending": lambda state: state | {"suffix": ".exe"},
    "another order": lambda state: state | {"order": ["age"]},
    "unknown argument": damage(lambda state: state["columns"][0].update(x=1)),
    "infinite": damage(lambda state: state["columns"][0].update(values=[float("inf")] * 42)),
    "text as a number": damage(lambda state: state["columns"][0]["scores"].__setitem__(0, "a")),
    "unsorted": damage(lambda state: state["columns"][0]["edges"].reverse()),
    "too few scores": damage(lambda state: state["columns"][0]["scores"].pop()),
    "a type that is none": damage(lambda state: state["columns"][0].update(dtype="object")),
    "decimals": damage(lambda state: state["columns"][0].update(decimals=-1)),
    "one category": damage(lambda state: state["columns"][3].update(categories=["a"])),
    "a number as category": damage(lambda state: state["columns"][3].update(categories=["a", 3])),
    "categories first": damage(lambda state: state["columns"].reverse()),
    "a name that is none": damage(lambda state: state["columns"][0].update(name=["age"])),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_columns_of_a_checkpoint_are_refused(case, tmp_path):
    data = set_up(write(tmp_path / "table.csv"))
    state = DAMAGED[case](json.loads(json.dumps(data.state_dict())))
    with pytest.raises(UserError, match="columns of the table are damaged"):
        data.load_state_dict(state)


def rows(n=40):
    return "".join(f"{index % 7},{'ab'[index % 2]}\n" for index in range(n))


REFUSED = {
    "missing": (None, ".csv", {}, r"is missing\. Choose a table with --data\.path"),
    "another ending": ("a,b\n", ".xlsx", {}, r"has the ending '\.xlsx'"),
    "empty": ("", ".csv", {}, "is empty"),
    "no rows": ("a,b\n", ".csv", {}, "has no rows"),
    "not UTF-8": ("a,b\n1,Zürich\n".encode("latin-1"), ".csv", {}, "is not text in UTF-8"),
    "ragged": ("a,b\n1,2\n1,2,3\n", ".csv", {}, r"different lengths \(Expected 2 fields in line 3, saw 3\)"),
    "two names": ("a,a\n1,2\n", ".csv", {}, "has several columns `a`"),
    "no name": (
        ",b\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(300)),
        ".csv",
        {},
        "`unnamed_1` numbers the rows",
    ),
    "semicolons": ("a;b\n1;2\n", ".csv", {}, r"has one column, `a;b`\. Add --data\.delimiter ';'"),
    "tabs": ("a\tb\n1\t2\n", ".csv", {}, r"Rename it to end in \.tsv if tab separates"),
    "no Parquet": ("text" * 99, ".parquet", {}, "is no Parquet file"),
    "constant number": ("a,b,c\n" + rows().replace("\n", ",5\n"), ".csv", {}, "`c` has one value"),
    "constant text": ("a,b,c\n" + rows().replace("\n", ",x\n"), ".csv", {}, "`c` has one value"),
    "infinite": ("a,b\ninf,a\n" + rows(), ".csv", {}, "`a` of .* has an infinite value"),
    "identifiers": (
        "a,b\n" + "".join(f"{i % 7},K{i}x\n" for i in range(300)),
        ".csv",
        {},
        r"`b` has 300 categories, such as 'K0x', one for each row\. .*exclude '\[b\]'",
    ),
    "row numbers": (
        "a,b\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(300)),
        ".csv",
        {},
        r"`a` numbers the rows.*exclude '\[a\]'",
    ),
    "dates": (
        "a,b\n" + "".join(f"{i % 7},2024-{1 + i // 25 % 12:02}-{1 + i % 25:02}\n" for i in range(300)),
        ".csv",
        {},
        "`b` has 300 categories, such as '2024-01-01', dates: write numbers",
    ),
    "decimal commas": (
        "a;b\n" + "".join(f"{i % 7};{i // 7},{i % 7}5\n" for i in range(300)),
        ".csv",
        {"delimiter": ";"},
        "numbers with a decimal comma",
    ),
    "unknown column": ("a,b\n" + rows(), ".csv", {"exclude": ["c"]}, "`--data.exclude` names `c`, and .* `a`, `b`"),
    "unknown target": ("a,b\n" + rows(), ".csv", {"target": "c"}, "`--data.target` names `c`"),
    "target of numbers": ("a,b\n" + rows(), ".csv", {"target": "a"}, "target `a` is a column of numbers"),
    "target left out": ("a,b\n" + rows(), ".csv", {"target": "b", "exclude": ["b"]}, "target `b` is left out"),
    "nothing left": ("a,b\n" + rows(), ".csv", {"exclude": ["a", "b"]}, "No column is left"),
    "all rows dropped": ("a,b\n1,\n,x\n", ".csv", {"missing": "drop"}, "Each row of .* has a missing value"),
    "a long delimiter": ("a,b\n" + rows(), ".csv", {"delimiter": "||"}, r"`delimiter` is '\|\|'"),
    "no validation rows": ("a,b\n" + rows(3), ".csv", {}, "leaves none of 3 examples for the split val"),
    "no path": ("", ".csv", {"path": None}, "`path` is not given"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(case, tmp_path):
    content, suffix, arguments, message = REFUSED[case]
    path = tmp_path / f"table{suffix}"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        TableDataModule(**{"path": str(path), **arguments}).setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"city": "Oslo"}, "`city` of .*other.csv has the category 'Oslo'"),
        ({"age": "old"}, "`age` of .*other.csv is text"),
        ({"city": None}, r"Values are missing in .*other.csv: 200 in `city`"),
    ],
)
def test_a_test_file_that_differs_from_the_training_file_is_refused(change, message, tmp_path):
    path = write(tmp_path / "table.csv")
    other = write(tmp_path / "other.csv", make_table().assign(**change))
    with pytest.raises(UserError, match=message):
        set_up(path, test_path=other)
    with pytest.raises(UserError, match=r"other.csv has no column `age`"):
        set_up(path, test_path=write(tmp_path / "other.csv", make_table().drop(columns="age")))


def test_columns_of_parquet_that_are_no_numbers_booleans_or_text_are_refused(tmp_path):
    for values in (pd.date_range("2024", periods=N), [[1, 2]] * N, [b"x"] * N):
        with pytest.raises(UserError, match=r"column `new` of .* has the type .*exclude '\[new\]'"):
            set_up(write(tmp_path / "table.parquet", make_table().assign(new=values)))


def test_types_of_parquet_are_kept(tmp_path):
    types = {"age": "uint8", "price": "float32", "city": "category", "zip": "string"}
    data = set_up(write(tmp_path / "table.parquet", make_table().astype(types)))
    restored = data.restore_table(data.splits["train"].data)
    assert restored["age"].dtype == np.uint8
    assert restored["price"].dtype == np.float32
    assert restored["member"].dtype == bool
    assert set(restored["price"]) <= set(make_table()["price"].astype("float32"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gan/table", "vae/table"])
def test_a_run_on_a_table_resumes_exactly_and_samples_without_the_file(recipe, fit, tmp_path, capsys):
    write(tmp_path / "table.csv")
    options = [f"--config={recipe}", "--trainer.logger=false", "--data.batch_size=32"]
    options += ["--data.target=city", "--trainer.check_val_every_n_epoch=2"]
    whole = fit(*options, "--trainer.max_steps=23")
    stopped = fit(*options, "--trainer.max_steps=12")
    fit("--resume", str(stopped), "--trainer.max_steps=23")
    weights = [load(run / "checkpoints/last.ckpt")["state_dict"] for run in (whole, stopped)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    checkpoint = f"--ckpt_path={stopped / 'checkpoints/last.ckpt'}"
    train.main(["test", checkpoint])
    report = capsys.readouterr().out
    for name in ("two_sample_accuracy", "trained_on_samples", "column_distance/age", "association_error"):
        assert name in report
    (tmp_path / "table.csv").unlink()
    train.main(["sample", checkpoint, "--num_samples=100"])
    samples, table = pd.read_csv("samples/samples.csv", dtype={"zip": str}), make_table()
    assert list(samples) == list(table)
    assert len(samples) == 100
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["samples.csv"]
    for name in ("city", "zip", "member", "age", "price"):
        assert set(samples[name]) <= set(table[name])
    with pytest.raises(SystemExit):
        train.main(["test", checkpoint])
    assert "table.csv is missing. Choose a table with --data.path." in capsys.readouterr().err
