"""Every worked example of the payment fact sheets, and the test that holds it.

A row is an example of a sheet: what it says, the figures it comes to, and the test (file and function) whose text has
these figures. An example without a test fails here, and so does a test that lost its figures. Not among them are
examples about risk scores, readmissions, strata and claim edits (rooms of their own), and numbers that are tables
rather than examples: those are data of programmes, with source and trust mark.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parents[2]
SAVINGS, MSSP = "unit/contracts/test_shared_savings.py", "unit/contracts/test_mssp.py"
EPISODES, CASES = "unit/contracts/episodes/test_medicare_episodes.py", "unit/attribution/test_mssp_cases.py"
MLR, MONTHS = "unit/contracts/test_medical_loss_ratio.py", "unit/attribution/test_member_months.py"
MIPS, P4P = "unit/contracts/test_mips.py", "unit/contracts/test_pay_for_performance.py"
CAPITATION, RISK_POOL = "unit/contracts/test_capitation.py", "unit/contracts/test_risk_pool.py"
REACH, PARTS = "unit/contracts/test_reach.py", "unit/contracts/test_shared_savings_parts.py"


class Example(NamedTuple):
    """What a sheet says, the figures of it, and where they are tested."""

    says: str
    figures: tuple[str, ...]
    file: str
    test: str


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "attribution": (
        Example("A: 300 + 100 of the ACO beat 390", ("300", "100", "390"), CASES, "test_worked_case"),
        Example("B: specialists are ignored", ("200", "150", "5000"), CASES, "test_worked_case"),
        Example("C: listed specialists decide where nobody else is", ("299", "2000"), CASES, "test_worked_case"),
        Example("D: step 3 reaches back, 180 against 150", ("180", "150"), CASES, "test_worked_case"),
        Example("D before 2025: nobody", (), CASES, "test_step_3_came_in_2025"),
        Example("E: a visit in a nursing facility is dropped", ("99309", "130"), CASES, "test_worked_case"),
        Example("F: one month of a group health plan", (), CASES, "test_f_one_month_in_a_group_health_plan_excludes"),
        Example("G: designated outside", (), CASES, "test_g_designation_outside_beats_claims"),
        Example("H: a tie goes to the last visit", ("200.00",), CASES, "test_worked_case"),
        Example("a TIN of two ACOs is left out", (), CASES,
                "test_services_billed_through_a_tin_of_two_entities_are_left_out"),
    ),
    "bundles": (
        Example("TEAM, track 3: 96,000", ("1_020_000", "96000.00"), EPISODES, "test_team_worked_examples"),
        Example("TEAM, track 3: -224,000", ("1_400_000", "-224000.00"), EPISODES, "test_team_worked_examples"),
        Example("TEAM: -263,200 before the limit", ("-263200",), EPISODES, "test_team_lines_explain_the_settlement"),
        Example("TEAM, track 2: -56,000", ("-56000.00",), EPISODES, "test_team_worked_examples"),
        Example("CJR: 86th and 47th percentile are 14.25", ("14.25",), EPISODES, "test_composite_of_a_hospital"),
        Example("CJR: categories of quality", (), EPISODES, "test_discounts_by_quality"),
        Example("3:2:2 of 96,000.01", ("96000.01", "41142.86", "27428.58", "27428.57"),
                "unit/contracts/test_gainsharing.py", "test_worked_example"),
    ),
    "capitation": (
        Example("15th rule: 12, 7 and 5 months", ("7", "5", "12"), MONTHS, "test_rules"),
        Example("prorated: 6.3763 and 5.9828", ("6.37634409", "5.98279570"), MONTHS, "test_rules"),
        Example("corridor: provider 65,000, plan 55,000", ("-55_000", "65_000"), RISK_POOL,
                "test_a_corridor_around_the_target"),
        Example("individual stop-loss: 315,000", ("315_000",), RISK_POOL, "test_individual_stop_loss_then_aggregate"),
        Example("tier 3 to 4 on 11 April: 800 or 600", ("800", "600"), "unit/contracts/test_case_rate.py",
                "test_a_tier_that_changes_within_the_period"),
        Example("MLR to three decimals", ("79880", "0.799", "82530", "0.825"), MLR, "test_three_decimals"),
        Example("45 CFR 158.240(c)(2), both", ("121_250", "9_250", "92.50", "185_000"), MLR,
                "test_the_examples_of_the_regulation"),
        Example("credibility of 3,750 life years: 5.709 %", ("0.05709", "0.0445"), MLR,
                "test_credibility_of_the_sheet"),
        Example("29 February", ("0.03448276",), MONTHS, "test_leap_day"),
        Example("28 or 29 days of February", (), "unit/contracts/test_case_rate.py", "test_february_has_28_or_29_days"),
        Example("overlapping coverage is one month", (), MONTHS, "test_overlapping_and_adjacent_spans_count_once"),
        Example("a change beyond the retro window", (), "unit/attribution/test_ledger.py",
                "test_outside_the_window_nothing_changes_and_it_is_flagged_once"),
        Example("a score that changes after payment", (), CAPITATION, "test_a_score_that_changes_after_payment"),
        Example("months taken back, at the rate of their month", (), CAPITATION,
                "test_retroactive_adds_terms_and_rates_at_the_rate_of_their_month"),
        Example("months without claims are paid", (), CAPITATION, "test_rate_times_member_months"),
        Example("a newborn in the month of birth", (), "unit/attribution/test_anchors.py",
                "test_newborns_count_in_their_month_and_have_a_cell"),
        Example("the sum is of rows, rounded once", (), "unit/contracts/test_month_payment_laws.py",
                "test_lines_are_the_sums_of_rows"),
    ),
    "p4p": (
        Example("HAI-5: exactly 1.5 is 2", ("1.124", "1.405"), P4P, "test_hospital_vbp_points"),
        Example("exchange: 1.004 and 0.992", ("1.004", "0.992"), "unit/contracts/test_hospital_vbp.py",
                "test_the_synthetic_exchange_of_the_sheet"),
        Example("HRRP 010001: 0.9975", ("0.9975",), "unit/contracts/test_readmissions.py",
                "test_the_published_factor_of_the_sheet"),
        Example("HRRP 010005: all below the median", (), "unit/contracts/test_readmissions.py",
                "test_the_published_factor_of_the_sheet"),
        Example("MIPS deciles: 5.41 and 5.80", ("5.41", "5.80"), MIPS, "test_decile_points_of_the_sheet"),
        Example("MIPS payment: -1.80 % and 2.16 %", ("60", "-0.018", "0.0216"), MIPS, "test_payment_adjustment"),
        Example("half stars: 3.749 and 3.750", ("3.749", "3.750"), "unit/contracts/test_scorecard.py", "test_ratings"),
        Example("gap to the next cut point", (), "unit/contracts/test_scorecard.py",
                "test_the_gap_to_the_next_cut_point"),
        Example("ladder: 79.99 is 50 %", ("79.99", "0.5"), P4P, "test_ladder_is_closed_on_the_left"),
        Example("gate: 3 of 5", ("3",), "unit/contracts/test_p4p_primitives.py", "test_gates"),
        Example("a small measure gives its weight away", (), P4P,
                "test_a_small_measure_gives_its_weight_away_or_loses_it"),
        Example("PPS-1: 490.20", ("490.20",), "unit/contracts/test_ccbhc.py", "test_the_daily_rate_of_the_sheet"),
        Example("PPS-2: 812 once", ("812",), "unit/contracts/test_ccbhc.py", "test_the_monthly_rate_of_the_sheet"),
        Example("bond: 240,000, capped 200,000", ("240_000", "200_000"), "unit/contracts/test_outcome_rate_card.py",
                "test_the_bond_of_the_sheet"),
        Example("child welfare: 3 points up, re-entry at most 10 %", (), "unit/contracts/test_p4p_primitives.py",
                "test_child_welfare_bonus_of_the_sheet"),
    ),
    "shared-savings": (
        *(
            Example(f"published result of {name}", (name, figure), MSSP, "test_worked_results_of_the_reference")
            for name, figure in (
                ("A1001", "107_895_330"), ("A1247", "11_783_923"), ("A3770", "8_704_413"), ("A2366", "4_058_007"),
                ("A1490", "0"), ("A5411", "222_763"), ("A5309", "0"), ("A2246", "-476_196"), ("A5386", "-212_271"),
            )
        ),
        Example("minimum rates: 3.84, 2.40, 2.30", ("5_194", "3.84", "30_324", "2.40", "40_219", "2.30"), MSSP,
                "test_minimum_savings_rate_by_size"),
        Example("Balance ACO: sequestration before the cap", ("11_976_300", "119_762_995"), MSSP,
                "test_payment_limit_comes_after_sequestration"),
        Example("REACH D0006: -1,184,021", ("-1_184_021",), REACH, "test_worked_result_of_the_reference"),
        Example("a rate that is the minimum rate", (), SAVINGS, "test_rate_exactly_at_the_msr_shares"),
        Example("4,999 and 5,000 beneficiaries", ("4_999", "5_000"), MSSP, "test_low_revenue_relief"),
        Example("a score of 77.05 exactly", ("77.05", "77.04"), MSSP, "test_quality_standard_of_2024"),
        Example("truncation comes before weighting", (), "unit/contracts/test_benchmarks.py",
                "test_cost_is_annualised_and_truncated_before_it_is_weighted"),
    ),
    "equity-and-disputes": (
        Example("16 points x 31 % are 4.96", ("0.31", "0.0496"), PARTS, "test_equity_bonus_of_the_reference"),
        Example("terciles: 4+4+2+2+0+4 out of scores, 31 % out of members", ("4.96",),
                "unit/contracts/test_social_risk.py", "test_the_bonus_of_the_sheet_from_scores_and_members"),
        Example("benchmark adjustment of 2023: +30, -6 by tenths", ("30", "-6"),
                "unit/contracts/test_social_risk.py", "test_amounts_by_tenth_from_scores_of_members"),
        Example("TEAM: dual, low income or deprivation from 80 on is 1", ("80",),
                "unit/contracts/test_social_risk.py", "test_social_risk_of_team"),
    ),
}  # fmt: skip
ROWS = [pytest.param(one, id=f"{sheet}: {one.says}") for sheet, rows in EXAMPLES.items() for one in rows]


@cache
def _source(file: str) -> tuple[str, frozenset[str]]:
    text = (TESTS / file).read_text(encoding="utf-8")
    return text, frozenset(node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("example", ROWS)
def test_an_example_has_its_test(example: Example) -> None:
    text, functions = _source(example.file)
    assert example.test in functions
    missing = [one for one in example.figures if not re.search(rf"(?<![\w.]){re.escape(one)}(?![\w])", text)]
    assert not missing, f"{example.file} says nothing of {missing}"
