"""`python -m demo up | down`: the whole path on one machine, told stage by stage; `make demo` and `make demo-down`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from demo import path, picture
from demo.commands import Commands
from demo.load import Load
from demo.report import Report
from demo.stages import DemoError, Stages
from localcluster.testing import cluster_programs

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "demo"
STATE = ROOT / ".localcluster"
CHART = ROOT / "charts/depth-operator"
LOCAL_VALUES = CHART / "ci/local-values.yaml"
NAME = "depth"
LOAD_CLIENTS = 4
PLAIN_WIDTH = 160
NOTES = (
    "The weights are small ones for demonstrations; for real work take official ones: docs/how-to/real-weights.md.",
    "The node's GPUs are simulated for the scheduler: the model runs on the CPU.",
)


def start_cluster(stages: Stages) -> Commands:
    """Starts the local cluster with Prometheus, or finds it running."""
    with stages.stage("local cluster") as progress:
        command = [sys.executable, "-m", "localcluster", "up", "--state-dir", str(STATE), "--prometheus"]
        if subprocess.run(command, check=False, cwd=ROOT).returncode:
            raise DemoError(f"`{' '.join(command)}` failed; its messages stand above")
        programs = cluster_programs(STATE)
        commands = Commands(programs.kubectl, programs.helm, programs.kubeconfig)
        version = json.loads(commands.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
        progress.outcome = f"Kubernetes {version}, Prometheus, one node that runs pods as processes"
    return commands


def serve(stages: Stages, commands: Commands) -> str:
    """Installs the operator, makes weights, applies the DepthService and waits for it; returns the endpoint's URL."""
    with stages.stage("operator") as progress:
        progress.outcome = f"helm release {path.install_operator(commands, CHART, LOCAL_VALUES)}"
    with stages.stage("weights") as progress:
        path.make_weights(commands, ROOT / "examples/weights.yaml")
        progress.outcome = "a Job copied the bundled demo weights (ViTT14) into the volume"
    with stages.stage("DepthService") as progress:
        commands.kubectl("apply", "--filename", str(ROOT / "examples/depthservice.yaml"))
        path.wait_ready(commands, NAME, progress.say)
        url = path.endpoint(commands, NAME)
        progress.outcome = f"Ready at {url}"
    return url


def take_depth_map(stages: Stages, report: Report, url: str, photograph: Path) -> None:
    """Posts the photograph and writes the depth map as picture and as values."""
    with stages.stage("depth map") as progress:
        width, height = picture.write_photograph(photograph)
        answer = path.predict(url, photograph.read_bytes())
        depth = picture.decode_depth(answer)
        picture.write_results(depth, FOLDER / "depth.png", FOLDER / "depth.npy")
        progress.outcome = (
            f"{width}x{height} photograph in, depth map out in {answer['processing_time']:.2f} s: "
            "demo/depth.png, demo/depth.npy"
        )
        report.facts["prediction"] = {key: value for key, value in answer.items() if key != "depth_map"}


def scale(stages: Stages, report: Report, commands: Commands, url: str, photograph: Path) -> None:
    """Drives load until the HPA adds replicas, stops it, and waits until they are gone again."""
    with stages.stage("scale up under load") as progress:
        load = Load(
            f"{url}/predict", photograph.read_bytes(), clients=LOAD_CLIENTS, max_seconds=path.SCALE_TIMEOUT_SECONDS
        )
        with load:
            up = path.wait_replicas(
                commands, NAME, lambda now: now.ready >= 2, what="a second ready replica under load", say=progress.say
            )
        answers = {str(status): count for status, count in sorted(load.answers.items())}
        progress.outcome = f"{up.specified} replicas, {up.ready} ready; answers by status: {answers}"
        report.facts["load"] = {"clients": LOAD_CLIENTS, "answers": answers, "replicas": up.specified}
    with stages.stage("scale down after it") as progress:
        down = path.wait_replicas(
            commands, NAME, lambda now: now.specified == 1, what="the return to one replica", say=progress.say
        )
        progress.outcome = f"{down.specified} replica"


def next_commands(commands: Commands, url: str) -> list[str]:
    """What a person may type next."""
    return [
        f"export KUBECONFIG={commands.kubeconfig}",
        f"export PATH={commands.kubectl_path.parent}:$PATH",
        "kubectl get dsvc",
        f"kubectl describe dsvc {NAME}",
        "kubectl get deployment,hpa,pods",
        f"curl -F file=@demo/photo.jpg {url}/predict | head -c 300",
        f"curl {url}/metrics",
        "make demo-down",
    ]


def up(console: Console, bootstrap_report: Path | None) -> None:
    """Walks the whole path and leaves the cluster and the endpoint running."""
    stages, report = Stages(console), Report()
    if bootstrap_report is not None and bootstrap_report.is_file():
        for name, seconds in json.loads(bootstrap_report.read_text()).items():
            stages.add(name, seconds, "made, or found up to date; beside the other", overlaps=True)
    report.stages = stages.records
    commands = start_cluster(stages)
    url = serve(stages, commands)
    photograph = FOLDER / "photo.jpg"
    take_depth_map(stages, report, url, photograph)
    scale(stages, report, commands, url, photograph)
    report.facts |= {"url": url, "kubeconfig": str(commands.kubeconfig), "notes": NOTES}
    report.next_commands = next_commands(commands, url)
    report.write(FOLDER / "report.json")
    console.print()
    console.print(commands.kubectl("get", "depthservices"), highlight=False, soft_wrap=True, markup=False, end="")
    report.show(console)
    console.print("\n" + "\n".join(NOTES), highlight=False)


def down() -> int:
    """Stops the cluster and everything in it."""
    return subprocess.run(
        [sys.executable, "-m", "localcluster", "down", "--state-dir", str(STATE)], check=False, cwd=ROOT
    ).returncode


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="From nothing to a depth map on one machine.")
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--bootstrap-report", type=Path, help="durations of what `make` ran before")
    arguments = parser.parse_args()
    if arguments.action == "down":
        return down()
    # Without a terminal rich assumes 80 columns; sentences and commands are longer.
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    try:
        up(console, arguments.bootstrap_report)
    except DemoError as error:
        console.print(f"\n[red]The demo stopped:[/red] {error}", highlight=False)
        console.print("The cluster is left as it is for a look; `make demo-down` stops it.")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
