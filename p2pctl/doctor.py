"""`p2pctl doctor`: the daemon's findings, or, if it does not answer, those made without it."""

from typing import TYPE_CHECKING, Final

from p2pctl import render
from p2pctl.commands import Run
from p2pd.errors import DaemonUnreachable, P2PError, RequestTimedOut

if TYPE_CHECKING:
    from p2pd.control.results import FindingJson

DEFAULT_CONFIG: Final = "/etc/p2pd/p2pd.toml"


def examine(run: Run) -> int:
    """Show what is wrong and what to do about it; returns 1 if there is a problem."""
    try:
        said: list[FindingJson] = run.call("doctor")["findings"]
        daemon, findings = True, [_answers(run.connected().path), *said]
    except (DaemonUnreachable, RequestTimedOut) as error:
        daemon, findings = False, _without_daemon(run, error)
    healthy = all(each["level"] != "problem" for each in findings)
    run.show(
        {"ok": healthy, "daemon": daemon, "findings": findings},
        lambda answer: render.findings(answer["findings"], run.style),
    )
    return 0 if healthy else P2PError.exit_code


def _answers(path: str) -> "FindingJson":
    return {
        "check": "control",
        "code": "control.ok",
        "level": "ok",
        "text": f"p2pd answers at {path}",
        "remedy": None,
    }


def _without_daemon(run: Run, error: P2PError) -> "list[FindingJson]":
    from p2pctl.local_checks import look  # noqa: PLC0415 - start-up time

    options = run.options
    found = look(
        str(error),
        denied=isinstance(error, DaemonUnreachable) and error.denied,
        absent=isinstance(error, DaemonUnreachable) and error.absent,
        instance=run.instance,
        state_dir=options.state_dir,
        config=options.config or DEFAULT_CONFIG,
        config_must_be=options.config is not None,
    )
    return [
        {
            "check": each.check,
            "code": each.code,
            "level": each.level.value,
            "text": each.text,
            "remedy": each.remedy,
        }
        for each in found
    ]
