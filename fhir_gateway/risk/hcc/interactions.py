"""Groups and interactions of the CMS-HCC models, as CMS's model software defines them (macros V24H86 and V2823T2M).

A factor of an interaction is a group (any of its HCCs), an HCC by number, or ``DISABLED``: below 65 and entitled for
another reason than age. Which segment an interaction pays in is a matter of the year's coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping

DISABLED = "DISABLED"

GROUPS: Mapping[str, Mapping[str, str]] = {
    "V24": {
        "CANCER": "8 9 10 11 12",
        "DIABETES": "17 18 19",
        "CARD_RESP_FAIL": "82 83 84",
        "CHF": "85",
        "gCopdCF": "110 111 112",
        "RENAL": "134 135 136 137 138",
        "SEPSIS": "2",
        "gSubstanceUseDisorder": "54 55 56",
        "gPsychiatric": "57 58 59 60",
        "PRESSURE_ULCER": "157 158 159",
    },
    "V28": {
        "CANCER": "17 18 19 20 21 22 23",
        "DIABETES": "35 36 37 38",
        "CARD_RESP_FAIL": "211 212 213",
        "HF": "221 222 223 224 225 226",
        "CHR_LUNG": "276 277 278 279 280",
        "KIDNEY": "326 327 328 329",
        "gSubUseDisorder": "135 136 137 138 139",
        "gPsychiatric": "151 152 153 154 155",
        "NEURO": "180 181 182 190 191 192 195 196 198 199",
        "ULCER": "379 380 381 382",
    },
}

INTERACTIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "V24": {
        "HCC47_gCancer": ("47", "CANCER"),
        "DIABETES_CHF": ("DIABETES", "CHF"),
        "CHF_gCopdCF": ("CHF", "gCopdCF"),
        "HCC85_gRenal_V24": ("CHF", "RENAL"),
        "gCopdCF_CARD_RESP_FAIL": ("gCopdCF", "CARD_RESP_FAIL"),
        "HCC85_HCC96": ("85", "96"),
        "gSubstanceUseDisorder_gPsych": ("gSubstanceUseDisorder", "gPsychiatric"),
        "SEPSIS_PRESSURE_ULCER": ("SEPSIS", "PRESSURE_ULCER"),
        "SEPSIS_ARTIF_OPENINGS": ("SEPSIS", "188"),
        "ART_OPENINGS_PRESS_ULCER": ("188", "PRESSURE_ULCER"),
        "gCopdCF_ASP_SPEC_B_PNEUM": ("gCopdCF", "114"),
        "ASP_SPEC_B_PNEUM_PRES_ULC": ("114", "PRESSURE_ULCER"),
        "SEPSIS_ASP_SPEC_BACT_PNEUM": ("SEPSIS", "114"),
        "SCHIZOPHRENIA_gCopdCF": ("57", "gCopdCF"),
        "SCHIZOPHRENIA_CHF": ("57", "CHF"),
        "SCHIZOPHRENIA_SEIZURES": ("57", "79"),
        "DISABLED_HCC85": (DISABLED, "85"),
        "DISABLED_PRESSURE_ULCER": (DISABLED, "PRESSURE_ULCER"),
        "DISABLED_HCC161": (DISABLED, "161"),
        "DISABLED_HCC39": (DISABLED, "39"),
        "DISABLED_HCC77": (DISABLED, "77"),
        "DISABLED_HCC6": (DISABLED, "6"),
    },
    "V28": {
        "DIABETES_HF_V28": ("DIABETES", "HF"),
        "HF_CHR_LUNG_V28": ("HF", "CHR_LUNG"),
        "HF_KIDNEY_V28": ("HF", "KIDNEY"),
        "CHR_LUNG_CARD_RESP_FAIL_V28": ("CHR_LUNG", "CARD_RESP_FAIL"),
        "HF_HCC238_V28": ("HF", "238"),
        "gSubUseDisorder_gPsych_V28": ("gSubUseDisorder", "gPsychiatric"),
        "DISABLED_CANCER_V28": (DISABLED, "CANCER"),
        "DISABLED_NEURO_V28": (DISABLED, "NEURO"),
        "DISABLED_HF_V28": (DISABLED, "HF"),
        "DISABLED_CHR_LUNG_V28": (DISABLED, "CHR_LUNG"),
        "DISABLED_ULCER_V28": (DISABLED, "ULCER"),
    },
}

#: HCCs that count only beside one of others. V28: acute on chronic myocarditis needs a heart failure HCC.
ONLY_BESIDE: Mapping[str, Mapping[str, str]] = {"V24": {}, "V28": {"223": "221 222 224 225 226"}}

#: Number of payment HCCs, one of these for each member.
COUNTS = ("D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10P")
