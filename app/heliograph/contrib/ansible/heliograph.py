# Copyright (c) the Heliograph authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
#
# Only this file has that licence, because it extends Ansible's CallbackBase. The rest of Heliograph is MIT.
"""Ansible callback plugin: an unmodified playbook's plays, tasks and results, live on a Heliograph channel."""

from __future__ import annotations

import atexit
import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

try:
    from heliograph.client.feed import Feed
    from heliograph.client.lines import without_control
    from heliograph.client.publisher import Publisher
    from heliograph.errors import HeliographError
except ImportError as error:
    UNUSABLE = f"Heliograph cannot be imported ({error}); install it for the Python that runs Ansible"
else:
    UNUSABLE = ""

DOCUMENTATION = """
    name: heliograph
    type: notification
    short_description: live output of a playbook in Heliograph
    description:
        - Publishes plays, tasks, results and the recap, each line at once, to the channel C(logs:<log_id>).
        - A playbook neither waits nor fails because Redis cannot be reached; what is dropped meanwhile is counted.
    requirements:
        - heliograph, importable by the Python that runs Ansible
        - "callbacks_enabled = heliograph"
    options:
        log_id:
            description: The playbook is seen on C(logs:<log_id>). Without it nothing is published.
            type: str
            env:
                - name: HELIOGRAPH_LOG_ID
            ini:
                - section: callback_heliograph
                  key: log_id
        redis_url:
            description: Of the Redis that the Heliograph cluster uses.
            type: str
            env:
                - name: HELIOGRAPH_REDIS__URL
            ini:
                - section: callback_heliograph
                  key: redis_url
        durable_url:
            description: Of the second Redis, which keeps what is kept, if the cluster has one.
            type: str
            env:
                - name: HELIOGRAPH_REDIS__DURABLE_URL
            ini:
                - section: callback_heliograph
                  key: durable_url
        ack:
            description: When a line counts as published, as in the cluster.
            type: str
            choices: [memory, disk, replica, managed]
            default: memory
            env:
                - name: HELIOGRAPH_REDIS__ACK
            ini:
                - section: callback_heliograph
                  key: ack
        wait:
            description: At the end, how many seconds without success to wait for Redis.
            type: float
            default: 5
            env:
                - name: HELIOGRAPH_WAIT
            ini:
                - section: callback_heliograph
                  key: wait
"""

WIDTH = 79  # of headings, as in Ansible
MOST_LINE = 16384  # characters


class CallbackModule(CallbackBase):
    """Turn Ansible's events into lines, each with the fields `event`, `host` and `task`."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "heliograph"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._feed: Feed | None = None
        self._pid = os.getpid()

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        log_id = self.get_option("log_id")
        if UNUSABLE or not log_id:
            self._disable(UNUSABLE or "no HELIOGRAPH_LOG_ID is set")
            return
        channel = f"logs:{log_id}"
        try:
            publisher = Publisher(
                self.get_option("redis_url"),
                durable_url=self.get_option("durable_url"),
                ack=self.get_option("ack"),
                deadline_s=0,  # the feed retries by itself
            )
        except HeliographError as error:
            self._disable(str(error))
            return
        self._feed = Feed(
            lambda data, key: publisher.publish(channel, data, key),
            lambda lines: {"dropped": lines, "stream": "dropped"},
            say=lambda text: self._display.warning(f"heliograph: {text}"),
        )
        self._feed.start()
        # Also if the playbook is interrupted, and only once if one command runs several playbooks.
        atexit.register(self._finish, float(self.get_option("wait")))

    def _disable(self, reason: str) -> None:
        self.disabled = True
        self._display.warning(f"heliograph: nothing is published: {reason}")

    def _finish(self, patience_s: float) -> None:
        if self._feed is None or os.getpid() != self._pid:
            return
        try:
            lost = self._feed.close(patience_s)
        except KeyboardInterrupt:
            lost = self._feed.close(0)
        if lost:
            self._display.warning(f"heliograph: {lost} lines could not be published: {self._feed.reason}")

    # -- publishing

    def _say(self, text: str, event: str, stream: str = "stdout", **fields: str) -> None:
        if self._feed is None:
            return
        for line in text.splitlines() or [""]:
            for at in range(0, max(len(line), 1), MOST_LINE):
                data: dict[str, Any] = {"line": line[at : at + MOST_LINE], "stream": stream, "event": event, **fields}
                if at + MOST_LINE < len(line):
                    data["more"] = True
                self._feed.offer(data, size=len(data["line"]))

    def _heading(self, text: str, event: str, **fields: str) -> None:
        self._say("", event, **fields)
        self._say(f"{text} {'*' * max(WIDTH - len(text), 3)}", event, **fields)

    def _outcome(self, result: Any, event: str, text: str, *, stream: str = "stdout") -> None:
        """Publish a result of one host: its outcome, then the command's output."""
        host, task, values = _parts(result)
        fields = {"event": event, "host": host, "task": task.get_name().strip()}
        whole_loop = task.loop is not None and "results" in values
        if whole_loop and event != "failed":
            return  # the items have published this already
        item = values.get("_ansible_item_label", values.get("item")) if task.loop is not None else None
        label = "" if item is None else f" => (item={item})"
        self._say(f"{text.replace('{host}', host)}{label}", stream=stream, **fields)
        if "censored" in values:
            self._say(str(values["censored"]), **fields)
            return
        printed = [("stdout", values.get("stdout")), ("stderr", values.get("stderr"))]
        if event in ("failed", "unreachable") or _short(task.action) in ("debug", "assert", "fail"):
            printed.insert(0, (stream, _message(values)))
            printed += [(stream, values.get(name)) for name in ("module_stdout", "module_stderr")]
        if _short(task.action) == "debug" and (name := task.args.get("var")) in values:
            printed.insert(0, (stream, f"{name}: {json.dumps(values[name], ensure_ascii=False, default=str)}"))
        for stream_of_text, value in printed:
            if isinstance(value, str) and value.strip("\n"):
                self._say(value.strip("\n"), stream=stream_of_text, **fields)

    # -- Ansible's events

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._say(f"PLAYBOOK {os.path.basename(playbook._file_name)}", "playbook")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._heading(f"PLAY [{play.get_name().strip()}]", "play")

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._say("skipping: no hosts matched", "play")

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        self._say("NO MORE HOSTS LEFT", "play")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task("TASK", task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._task("RUNNING HANDLER", task)

    def v2_playbook_on_cleanup_task_start(self, task: Any) -> None:
        self._task("CLEANUP TASK", task)

    def _task(self, kind: str, task: Any) -> None:
        name = task.get_name().strip()
        self._heading(f"{kind} [{name}]", "task", task=name)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        hosts = ", ".join(host.name for host in included_file._hosts)
        self._say(f"included: {included_file._filename} for {hosts}", "included")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._went_well(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._went_well(result)

    def _went_well(self, result: Any) -> None:
        changed = _parts(result)[2].get("changed", False)
        event = "changed" if changed else "ok"
        self._outcome(result, event, f"{event}: [{{host}}]")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._outcome(result, "failed", "fatal: [{host}]: FAILED!", stream="stderr")
        if ignore_errors:
            self._say("...ignoring", "ignored", host=_parts(result)[0])

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._outcome(result, "failed", "failed: [{host}]", stream="stderr")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._outcome(result, "unreachable", "fatal: [{host}]: UNREACHABLE!", stream="stderr")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._outcome(result, "skipped", "skipping: [{host}]")

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._outcome(result, "skipped", "skipping: [{host}]")

    def v2_runner_retry(self, result: Any) -> None:
        host, task, values = _parts(result)
        left = values.get("retries", 0) - values.get("attempts", 0)
        name = task.get_name().strip()
        self._say(f"FAILED - RETRYING: [{host}]: {name} ({left} retries left)", "retry", host=host, task=name)

    def v2_on_file_diff(self, result: Any) -> None:
        """With `--diff`, publish what a task has changed, as the terminal shows it."""
        host, task, values = _parts(result)
        each = values.get("results") if task.loop is not None else None
        for one in [values] if each is None else each:
            if one.get("diff") and one.get("changed", False):
                text = "\n".join(map(without_control, self._get_diff(one["diff"]).split("\n"))).strip("\n")
                if text:
                    self._say(text, "diff", host=host, task=task.get_name().strip())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._heading("PLAY RECAP", "recap")
        for host in sorted(stats.processed):
            counts = stats.summarize(host)
            counts["failed"] = counts.pop("failures")
            names = ("ok", "changed", "unreachable", "failed", "skipped", "rescued", "ignored")
            shown = "  ".join(f"{name}={counts.get(name, 0)}" for name in names)
            self._say(f"{host:<26} : {shown}", "recap", host=host)


def _parts(result: Any) -> tuple[str, Any, Any]:
    """Return host, task and values of a result. Older versions of Ansible have only private names for them."""
    if hasattr(type(result), "task"):
        return result.host.get_name(), result.task, result.result
    return result._host.get_name(), result._task, result._result


def _short(action: str) -> str:
    return action.rpartition(".")[2]


def _message(values: Any) -> str:
    message = values.get("msg", "")
    return "\n".join(map(str, message)) if isinstance(message, list) else str(message)
