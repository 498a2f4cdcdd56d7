"""Asks the real Prometheus what rules do, and writes its answers beside the cases: `ask_prometheus.py BIN_FOLDER`.

Each case of prometheus.json becomes a scrape job whose one target has the file's labels; `promtool` says which rules
are refused, the API's target list what became of the labels. Debian's package `prometheus` (2.42.0) has both programs.
Run it after adding cases; what the test file calls a stated difference is left for the test to know.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).with_name("prometheus.json")
ADDRESS = "127.0.0.1:19191"
OWN = ("job", "instance")
"""Labels that Prometheus adds to targets."""


def main() -> None:
    programs = Path(sys.argv[1])
    given = json.loads(CASES.read_text())
    cases = given["cases"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for case in cases:
            case["refused"] = _is_refused(programs / "promtool", work / "one.yml", case["rules"])
            case["kept"] = None
        jobs = [
            _job(f"case{index}", given["labels"], case["rules"])
            for index, case in enumerate(cases)
            if not case["refused"]
        ]
        (work / "all.yml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
        for name, labels in _targets(programs / "prometheus", work, len(jobs)).items():
            kept = {key: value for key, value in labels.items() if key not in OWN}
            cases[int(name.removeprefix("case"))]["kept"] = kept
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    labels = json.dumps(given["labels"], ensure_ascii=False)
    CASES.write_text(f'{{"labels": {labels},\n"cases": [\n{lines}\n]}}\n')


def _job(name: str, labels: dict[str, str], rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "job_name": name,
        "scrape_interval": "1h",
        "scrape_timeout": "1s",
        "static_configs": [{"targets": ["127.0.0.1:1"], "labels": labels}],
        "relabel_configs": rules,
    }


def _is_refused(promtool: Path, file: Path, rules: list[dict[str, Any]]) -> bool:
    # Without targets: only the rules themselves are to be judged, not what they do to Prometheus' own labels.
    file.write_text(yaml.safe_dump({"scrape_configs": [{"job_name": "x", "relabel_configs": rules}]}))
    return subprocess.run([promtool, "check", "config", file], capture_output=True).returncode != 0


def _targets(prometheus: Path, work: Path, expected: int) -> dict[str, dict[str, str]]:
    command = [
        prometheus,
        f"--config.file={work}/all.yml",
        f"--storage.tsdb.path={work}/data",
        f"--web.listen-address={ADDRESS}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(60):
                time.sleep(1)
                try:
                    with urllib.request.urlopen(f"http://{ADDRESS}/api/v1/targets") as answer:
                        found = json.load(answer)["data"]
                except urllib.error.URLError:
                    continue
                if len(found["activeTargets"]) + len(found["droppedTargets"]) == expected:
                    return {target["scrapePool"]: target["labels"] for target in found["activeTargets"]}
            raise TimeoutError("prometheus did not list its targets")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
