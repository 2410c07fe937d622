"""Runs in the environment of risk-adjustment-model: members as JSON in, raw score and mapping of each out."""

import json
import sys

from risk_adjustment_model import MedicareModelV24, MedicareModelV28

FULL, PARTIAL = ("02", "04", "08"), ("01", "03", "05", "06")


def population(member):
    """Its word for a segment, by our rules."""
    if member["new_enrollee"]:
        return "NE"
    if member["lti"]:
        return "INS"
    dual = "F" if member["dual"] in FULL else "P" if member["dual"] in PARTIAL else "N"
    return f"C{dual}{'A' if member['age'] >= 65 else 'D'}"


def main():
    """One line of JSON: a list in the order of the members."""
    given = json.load(sys.stdin)
    model = {"V24": MedicareModelV24, "V28": MedicareModelV28}[given["model"]](year=given["year"])
    found = []
    for member in given["members"]:
        codes = [code.upper().replace(".", "") for code in member["diagnoses"]]
        medicaid = member["dual"] in (*FULL, *PARTIAL)
        result = model.score(
            gender=member["sex"],
            orec=member["orec"] or "0",
            medicaid=medicaid,
            diagnosis_codes=codes,
            age=member["age"],
            population=population(member),
        )
        mapping = {}
        for code, plain in zip(member["diagnoses"], codes):  # noqa: B905 as old as the package allows
            categories = model.reference_files.category_map.get(plain, [])
            mapping[code] = sorted(one.removeprefix("HCC") for one in categories if one and one != "NA")
        found.append({"raw": result.score_raw, "mapping": mapping})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
