"""Every method of ``conf/algorithm`` keeps the contract of ``tests/contract.py``; a new one is held to it at once."""

import pytest

from algorithms.common.data.records import cache_folder, set_cache_folder
from command_line import choices
from contract import Contract
from few import few


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """One store for all methods: the supervised stage and the reward model are trained once."""
    before = cache_folder()
    yield tmp_path_factory.mktemp("stages")
    set_cache_folder(before)


METHODS = choices("algorithm")
# held to it under -m slow alone: each trains as one of the others does, which are best-of-n, DPO, RAFT, RLOO, PPO,
# RRHF, SFT and the reward model; a new method is held to it in the plain suite until it is written here
LATER = ("cpo", "dpo_online", "dr_grpo", "grpo", "hinge", "ipo", "kto", "llama2_rejection", "offline_pg", "orpo",
         "ppo_penalty", "rating_model", "reinforce", "rest", "rest_em", "rrhf_iterated", "simpo", "slic",
         "trl_dpo", "trl_grpo", "trl_kto", "trl_sft")  # importing TRL takes longer than all that the others train


@pytest.fixture(scope="module", params=few(METHODS, [name for name in METHODS if name not in LATER]))
def method(request, stages, tmp_path_factory) -> Contract:
    return Contract(request.param, tmp_path_factory.mktemp(request.param), stages)


def test_it_composes_at_both_scales(method):
    method.composes_at_both_scales()


def test_it_trains_on_the_lab(method):
    method.trains()


def test_micro_batches_change_nothing_but_rounding(method):
    if "micro_batches" in method.settings().algorithm.declines:
        pytest.skip("declined, as the README says")
    method.is_the_same_in_micro_batches()


def test_killed_it_goes_on_to_the_same_bits(method):
    if "resume" in method.settings().algorithm.declines:
        pytest.skip("declined, as the README says")
    method.goes_on_after_a_kill()


def test_it_stands_in_a_table_with_its_costs(method):
    method.stands_in_a_table_with_its_costs()


def test_its_folder_loads_elsewhere(method):
    method.is_exported()
