"""Which runs are a row of a table, and what names it."""

from benchmarks.members import members_of
from benchmarks.report import collect, table
from report_runs import result, save


def rows(folder, *runs):
    return [member.label for member in members_of(collect([save(folder, *runs)]))]


def test_what_all_runs_of_one_method_alone_were_given_is_a_note_and_no_name(tmp_path):
    """As settings that tuning found, each its method's."""
    tuned = ["recipe.lr=0.0018203248", "algorithm.beta=0.2", "recipe.steps=12345"]
    runs = [*(result("dpo", seed, tuned) for seed in (0, 1)),
            result("ppo", 0, ["algorithm.kl_coef=0.0634620703"]), result("sft")]
    folder = save(tmp_path, *runs)
    assert [member.label for member in members_of(collect([folder]))] == ["dpo", "ppo", "sft"]
    assert ("Settings that not all methods were given: dpo recipe.lr=0.00182, algorithm.beta=0.2 and "
            "recipe.steps=12345; ppo algorithm.kl_coef=0.06346.") in table(collect([folder])).notes


def test_what_differs_within_a_method_names_its_rows(tmp_path):
    assert rows(tmp_path, result("dpo", 0, ["algorithm.beta=0.1"]), result("dpo", 0, ["algorithm.beta=0.3"]),
                result("dpo", 0, ["algorithm.beta=0.3", "recipe.lr=1"]), result("sft")) == [
        "dpo (beta=0.1)", "dpo (beta=0.3)", "dpo (beta=0.3, recipe.lr=1)", "sft"]


def test_what_makes_a_comparison_unequal_is_in_the_name(tmp_path):
    """Data, evaluation, and what a method stands on are not the method's own."""
    given = ["data.preferences=64", "algorithm.needs.reference.recipe.lr=1"]
    assert rows(tmp_path, result("dpo", 0, given), result("sft")) == [
        "dpo (data.preferences=64, needs.reference.recipe.lr=1)", "sft"]
