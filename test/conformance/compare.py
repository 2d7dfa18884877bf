"""Compares what a bulk client downloaded with what the server's own search says.

    compare.py group BASE                   make sure of a Group of some patients; prints its id
    compare.py system BASE DIR              all of the types that a client asks for, and of those it has
    compare.py group-of BASE DIR GROUP      the patients of the group
    compare.py query BASE DIR TYPE QUERY    what a search finds
"""

import gzip
import json
import pathlib
import sys
import urllib.request

GROUP = "conformance-cohort"

# What smart-fetch asks for when it is told no types.
TYPES = """AllergyIntolerance Condition Device DiagnosticReport DocumentReference Encounter EpisodeOfCare Immunization
MedicationDispense MedicationRequest Observation Patient Procedure ServiceRequest Specimen""".split()


def ask(url, body=None):
    request = urllib.request.Request(url, data=body, method="PUT" if body else "GET")
    request.add_header("Cache-Control", "no-cache")
    request.add_header("Content-Type", "application/fhir+json")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def count(base, kind, query=""):
    return ask(f"{base}/{kind}?_summary=count&{query}")["total"]


def downloaded(folder):
    """The ids by type, and how many lines there are."""
    ids = {}
    for file in sorted(pathlib.Path(folder).rglob("*.ndjson*")):
        if file.name == "log.ndjson" or "error" in file.parts or "deleted" in file.parts:
            continue
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            for line in lines:
                resource = json.loads(line)
                if resource["resourceType"] != "OperationOutcome":
                    ids.setdefault(resource["resourceType"], []).append(resource["id"])
    return ids


def make_group(base):
    page = ask(f"{base}/Patient?_sort=_lastUpdated,_id&_count=5")
    members = [{"entity": {"reference": "Patient/" + e["resource"]["id"]}} for e in page["entry"]]
    group = {"resourceType": "Group", "id": GROUP, "type": "person", "actual": True, "member": members}
    ask(f"{base}/Group/{GROUP}", json.dumps(group).encode())
    print(GROUP)


def check(got, want):
    wrong = 0
    for kind in sorted(set(got) | set(want)):
        ids = got.get(kind, [])
        fine = len(ids) == len(set(ids)) == want.get(kind, 0)
        wrong += not fine
        print(f"{'ok  ' if fine else 'BAD '} {kind}: {len(set(ids))} ids on {len(ids)} lines, the server has {want.get(kind, 0)}")
    if not got:
        print("BAD  nothing was downloaded")
    return 0 if got and not wrong else 1


def main(command, base, *rest):
    if command == "group":
        make_group(base)
        return 0
    got = downloaded(rest[0])
    if command == "system":
        return check(got, {kind: count(base, kind) for kind in {*got, *TYPES}})
    if command == "group-of":
        patients = [m["entity"]["reference"] for m in ask(f"{base}/Group/{rest[1]}")["member"]]
        names = ",".join(p.split("/")[1] for p in patients)
        want = {"Patient": count(base, "Patient", "_id=" + names)}
        for kind in ("Observation", "Encounter", "Condition", "Procedure", "Immunization", "MedicationRequest"):
            want[kind] = count(base, kind, "patient=" + names)
        return check({kind: got.get(kind, []) for kind in want}, {k: n for k, n in want.items()})
    if command == "query":
        return check(got, {rest[1]: count(base, rest[1], rest[2])})
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
