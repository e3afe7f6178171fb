import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from evaluators.sandbox.client import Sandbox, SandboxError, SandboxLimits, SandboxRefusedError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMITS = SandboxLimits(
    seconds=5, memory_bytes=200 << 20, file_bytes=4 << 20, disk_bytes=8 << 20, processes=24
)
RUN = "sandbox_handlers:run_programs"
IGNORE_SIGNALS = """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""
#: Whether another program than ours is let; where there is none, the tests must pass.
UNSHARE = shutil.which("unshare")
CONFINES = UNSHARE is None or (
    subprocess.run(
        [UNSHARE, "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "true"],
        capture_output=True,
        check=False,
    ).returncode
    == 0
)


@pytest.fixture(scope="module")
def shared():
    """A sandbox for programs, opened once; where the kernel refuses, that it says so is tested."""
    sys.path.insert(0, str(HERE))
    os.environ["SHOAL_TEST_SECRET"] = "the password"
    try:
        if not CONFINES:
            with pytest.raises(SandboxRefusedError, match="Nothing was run"):
                Sandbox(RUN, None, limits=LIMITS)
            pytest.skip("this machine allows no namespaces: only the refusal was tested")
        with Sandbox(RUN, None, limits=LIMITS, environment={"HF_ALLOW_CODE_EVAL": "1"}) as opened:
            yield opened
    finally:
        sys.path.remove(str(HERE))
        del os.environ["SHOAL_TEST_SECRET"]


@pytest.fixture
def run(shared):
    """Runs a program in the sandbox; afterwards no process of it is left, alive or dead."""

    def call(program):
        return shared.call(textwrap.dedent(program), about="task 'poems', document 3")

    yield call
    assert call("answer = 'still there'") == "still there"
    assert children_of(shared._server.process.pid) == []


def children_of(process):
    listed = Path(f"/proc/{process}/task").glob("*/children")
    return [child for one in listed for child in one.read_text().split()]


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_a_handler_is_loaded_once_and_returns_plain_data(run):
    assert run("answer = {'accuracy': 0.1 + 0.2, 'right': [True, None]}") == {
        "accuracy": 0.1 + 0.2,
        "right": [True, None],
    }
    assert run("import numpy as np\nanswer = np.float32([0.1, 2])") == [0.10000000149011612, 2.0]


def test_nothing_of_a_call_is_left_for_the_next(run):
    assert run("import json\njson.mark = 1\nopen('/tmp/mark', 'w').close()") is None
    assert not Path("/tmp/mark").exists()
    assert run("import os, json\nanswer = [hasattr(json, 'mark'), os.listdir('/tmp')]")[0] is False
    assert "mark" not in run("import os\nanswer = os.listdir('/tmp')")


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("exit()", "SystemExit"),
        ("answer = object()", "expected plain data as a result, got object"),
        ("import os\nos._exit(0)", "ended its process, there is no result"),
        ("import ctypes\nctypes.string_at(0)", "ended by SIGSEGV"),
        ("answer = 'x' * (20 << 20)", "returned more than 16,777,216 bytes"),
        ("answer = []\nfor _ in range(100000): answer = [answer]", "RecursionError"),
    ],
)
def test_what_goes_wrong_is_an_error_that_names_task_and_document(run, program, cause):
    with pytest.raises(SandboxError, match=f"^task 'poems', document 3: .*{cause}"):
        run(program)


def test_no_network_is_to_be_had(run):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        for host in ("127.0.0.1", "::1"):
            with pytest.raises(SandboxError, match="Address family not supported"):
                run(f"import socket\nsocket.create_connection(({host!r}, {port}), timeout=2)")
    with pytest.raises(SandboxError, match="gaierror"):
        run("import socket\nsocket.getaddrinfo('example.com', 80)")
    for family in ("AF_VSOCK", "AF_NETLINK", "AF_PACKET"):
        with pytest.raises(SandboxError, match="Address family not supported"):
            run(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_RAW)")
    with pytest.raises(SandboxError, match="URLError"):
        run("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')")


def test_local_sockets_of_other_processes_cannot_be_reached(run, tmp_path):
    for address in (str(tmp_path / "door"), f"\0shoal-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(address)
            listener.listen()
            client.connect(address)
            with pytest.raises(SandboxError, match=r"(FileNotFound|ConnectionRefused)Error"):
                run(f"import socket\nsocket.socket(socket.AF_UNIX).connect({address!r})")


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        IGNORE_SIGNALS,
        "import os\nos.closerange(0, 1000)\nimport time\ntime.sleep(60)",
    ],
)
@pytest.mark.usefixtures("shared")
def test_a_program_that_does_not_end_is_ended_in_time(program):
    with Sandbox(RUN, None, limits=SandboxLimits(seconds=1)) as sandbox:
        started = time.monotonic()
        with pytest.raises(SandboxError, match="took longer than 1 s and was ended"):
            sandbox.call(program, about="")
        assert time.monotonic() - started < 3
        assert children_of(sandbox._server.process.pid) == []


def test_memory_is_limited_for_each_process_and_for_all_together(run):
    with pytest.raises(SandboxError, match="MemoryError"):
        run("held = bytearray(1 << 30)")
    many = """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                held = bytearray(100 << 20)
                held[::4096] = b'x' * len(held[::4096])
                time.sleep(60)
        time.sleep(60)
    """
    with pytest.raises(SandboxError, match="took more than 209,715,200 bytes of memory"):
        run(many)


def test_a_fork_bomb_ends_at_the_limit_of_processes(run):
    bomb = """
        import os
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    while True:
                        try: os.fork()
                        except OSError: pass
                made += 1
        except OSError as error:
            answer = [made, str(error)]
    """
    made, cause = run(bomb)
    assert 0 < made < LIMITS.processes
    assert "temporarily unavailable" in cause


def test_files_are_limited_each_and_all_together(run):
    with pytest.raises(SandboxError, match="File too large"):
        run("open('/tmp/one', 'wb').write(b'x' * (5 << 20))")
    with pytest.raises(SandboxError, match="No space left"):
        run("for n in range(5): open(f'/tmp/{n}', 'wb').write(b'x' * (3 << 20))")
    with pytest.raises(SandboxError, match="Too many open files"):
        run("held = [open('/dev/null') for _ in range(1000)]")


def test_nothing_outside_can_be_written(run, tmp_path):
    outside = tmp_path / "letter"
    outside.write_text("mine")
    listed = [str(ROOT / "README.md"), str(HERE / "new"), str(Path.home() / "new"), "/usr/new"]
    listed += ["/new", "/etc/passwd", "/dev/null/new", "/dev/new", "/proc/sys/kernel/hostname"]
    listed += [str(outside), sys.prefix + "/new", "/proc/1/oom_score_adj"]
    for path in listed:
        with pytest.raises(SandboxError, match="Error"):
            run(f"open({path!r}, 'a').write('x')")
    assert outside.read_text() == "mine"
    assert not (HERE / "new").exists()


@pytest.mark.usefixtures("shared")
def test_a_folder_may_be_written_and_is_as_before_for_the_next_call(tmp_path):
    cache = tmp_path / "cache"
    (cache / "metric").mkdir(parents=True)
    (cache / "metric" / "old").write_text("old")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").write_text("rows")
    tmp_path.chmod(0o755)
    write = f"""
        import os
        answer = os.listdir({str(cache / "metric")!r})
        open({str(cache / "metric" / "new")!r}, "w").write("x")
    """
    read = f"answer = open({str(tmp_path / 'data' / 'rows')!r}).read()"
    folders = {"readable": [tmp_path / "data"], "writable": [cache, tmp_path / "absent"]}
    with Sandbox(RUN, None, limits=LIMITS, **folders) as sandbox:
        assert sandbox.call(textwrap.dedent(write), about="") == []
        assert sandbox.call(textwrap.dedent(write), about="") == []
        assert sandbox.call(read, about="") == "rows"
        with pytest.raises(SandboxError, match="Read-only file system"):
            sandbox.call(f"open({str(tmp_path / 'data' / 'new')!r}, 'w')", about="")
    assert [path.name for path in (cache / "metric").iterdir()] == ["old"]


def test_the_rest_of_the_disk_cannot_be_read(run, tmp_path):
    (tmp_path / "secret").write_text("the password")
    with pytest.raises(SandboxError, match="FileNotFoundError"):
        run(f"open({str(tmp_path / 'secret')!r})")
    seen = set(run("import os\nanswer = os.listdir('/')"))
    shown = {Path(one).parts[1] for one in (*sys.path, sys.prefix, sys.base_prefix) if one}
    assert not {"root", "home", "var", "run", "boot", "sys", "mnt"} & seen - shown
    assert "bin" in seen
    devices = {"null", "zero", "full", "random", "urandom", "shm"}
    assert set(run("import os\nanswer = os.listdir('/dev')")) <= devices


def test_the_environment_holds_no_secrets(run):
    found = run(
        "import os, subprocess\n"
        "answer = [dict(os.environ), subprocess.check_output('env', text=True)]"
    )
    assert os.environ["SHOAL_TEST_SECRET"] not in json.dumps(found)
    assert found[0]["HF_ALLOW_CODE_EVAL"] == "1"
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


def test_other_processes_are_neither_seen_nor_killed(run, shared):
    kill = f"""
        import os, signal
        answer = [entry for entry in os.listdir('/proc') if entry.isdigit()]
        for process in (0, -1, os.getppid(), {os.getpid()}, {shared._server.process.pid}):
            try: os.kill(process, signal.SIGKILL)
            except OSError: pass
    """
    server = shared._server.process.pid
    assert run(kill) in (["1"], [])
    assert shared._server.process.pid == server
    killer = """
        import os, signal
        if os.fork() == 0:
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(0)
        os.wait()
        answer = 'alive'
    """
    assert run(killer) == "alive"


def test_a_process_that_hides_is_ended_with_the_call(run):
    mark = f"{os.getpid()}.125"
    hide = f"""
        import os
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv('/bin/sleep', ['sleep', '{mark}'])
            os._exit(0)
        os.wait()
        import time
        time.sleep(0.2)
        answer = [p for p in os.listdir('/proc') if p.isdigit()]
    """
    assert len(run(hide)) in (0, 2)
    commands = [one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline") if one.exists()]
    assert not [command for command in commands if mark.encode() in command]


def test_what_is_printed_or_written_anywhere_is_no_result(run):
    assert run("import os\nprint('{\"result\": 1}')\nos.write(2, b'x' * 100000)") is None
    everywhere = """
        import os
        for end in range(1 << 10):
            try: os.write(end, b'{"result": 1}')
            except OSError: pass
        answer = 2
    """
    with pytest.raises(SandboxError, match="wrote to where its result goes"):
        run(everywhere)
    assert run("import os\nanswer = 'parent' if os.fork() else 'child'") == "parent"


def test_power_over_the_kernel_is_not_to_be_had(run):
    doors = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        answer = [
            libc.unshare(0x10000000),
            libc.mount(b'none', b'/', None, 32 | 4096, None),
            libc.umount2(b'/tmp', 2),
            libc.ptrace(16, 1, 0, 0),
            libc.sethostname(b'mine', 4),
            libc.syscall(425, 8, bytes(200)),
            libc.syscall(250, 0, 0, 0),
        ]
        if os.fork() == 0:
            os.execv('/bin/true', ['true'])
        status = open('/proc/self/status').read() if os.path.exists('/proc/self/status') else ''
        answer += [line.split()[1] for line in status.splitlines() if line[:4] in ('CapE', 'CapP')]
    """
    found = run(doors)
    assert found[:7] == [-1] * 7
    assert set(found[7:]) <= {"0" * 16}
    assert run("import os\nanswer = [os.getuid(), os.geteuid(), os.getgid()]") == [65534] * 3


def test_a_metric_may_use_processes_of_its_own(run):
    # as Hugging Face's `code_eval` does: a manager, a process for each program, a time limit
    program = """
        import multiprocessing, tempfile
        context = multiprocessing.get_context('fork')
        def check(passed, text):
            with tempfile.TemporaryDirectory():
                exec(text, {})
            passed.append('passed')
        answer = []
        for text in ('assert 1 + 1 == 2', 'assert 1 + 1 == 3', 'while True: pass'):
            passed = context.Manager().list()
            process = context.Process(target=check, args=(passed, text))
            process.start()
            process.join(timeout=0.5)
            process.kill()
            answer.append(list(passed))
    """
    assert run(program) == [["passed"], [], []]
    assert multiprocessing.active_children() == []


def test_a_process_that_was_lost_is_an_error_and_is_started_anew(shared):
    first = shared._server.process.pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(SandboxError, match="document 3: the sandbox's process was lost"):
        shared.call("answer = 1", about="task 'poems', document 3")
    assert shared.call("answer = 2", about="") == 2
    assert shared._server.process.pid != first
    assert not Path(f"/proc/{first}").exists()


def test_after_closing_no_process_is_left(shared):
    process = shared._server.process
    shared.close()
    assert process.returncode is not None
    assert not Path(f"/proc/{process.pid}").exists()
    assert shared.call("answer = 'anew'", about="") == "anew"


@pytest.mark.usefixtures("shared")
def test_a_handler_that_cannot_be_loaded_says_why():
    with pytest.raises(SandboxError, match="LookupError: no documents in shelf"):
        Sandbox("sandbox_handlers:refuse_to_load", "shelf")
    with pytest.raises(SandboxError, match="no attribute 'absent'"):
        Sandbox("sandbox_handlers:absent", None)


SCRIPT = """
import os, sys, threading, time
sys.path[:0] = [{root!r}, {here!r}]
from evaluators.sandbox import calls
from evaluators.sandbox.client import Sandbox, SandboxLimits, SandboxRefusedError
limits = SandboxLimits(seconds=30, memory_bytes=200 << 20, processes=8)
"""


def script(body, python=sys.executable, **options):
    start = SCRIPT.format(root=str(ROOT), here=str(HERE))
    return subprocess.Popen(
        [python, "-c", start + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        **options,
    )


def test_where_the_kernel_refuses_namespaces_nothing_is_loaded_or_run():
    refused = script(
        """
        calls.filter_calls()  # what is within the walls may make no namespaces
        try:
            Sandbox("sandbox_handlers:refuse_to_load", None)
        except SandboxRefusedError as error:
            print("refused:", error)
        """
    )
    said, _ = refused.communicate(timeout=60)
    assert said.startswith("refused: generated code is refused, because this machine cannot")
    assert "Operation not permitted" in said
    assert "Nothing was run" in said


def test_what_runs_ends_with_the_process_that_asked_for_it(shared):
    asking = script(
        """
        sandbox = Sandbox("sandbox_handlers:run_programs", None, limits=limits)
        print(sandbox._server.process.pid, flush=True)
        sandbox.call("while True: pass", about="")
        """
    )
    server = int(asking.stdout.readline())
    wait_until(lambda: len(children_of(server)) == 1)
    watcher = children_of(server)[0]
    wait_until(lambda: len(children_of(watcher)) == 1)
    running = children_of(watcher)[0]
    asking.kill()
    asking.communicate()
    wait_until(lambda: not any(map(is_running, (server, watcher, running))))


def python_for(user):
    """A Python that another user may run; root's own may lie in root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        try:
            ran = subprocess.run([python, "-c", code], user=user, cwd="/", check=False)
        except PermissionError:
            continue
        if ran.returncode == 0:
            return python
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests ran as a normal user")
def test_the_walls_stand_for_a_normal_user_too(shared):
    user = 12345
    python = python_for(user)
    if python is None:
        pytest.skip("no Python 3.11 that a normal user may run on this machine")
    body = """
        import json
        with Sandbox("sandbox_handlers:run_programs", None, limits=limits) as sandbox:
            found = []
            for program in (
                "answer = arguments",
                "import socket; socket.create_connection(('127.0.0.1', 9))",
                "import os; answer = [os.getuid(), os.listdir('/tmp')]",
                "open('/new', 'w')",
                "import os\\nwhile True: os.fork()",
                "bytearray(1 << 30)",
            ):
                try:
                    found.append(sandbox.call(program, about="x"))
                except Exception as error:
                    found.append(str(error))
        print(json.dumps(found))
    """
    ran = script(body, python, user=user, group=user, extra_groups=[], env={"PATH": "/usr/bin"})
    said, _ = ran.communicate(timeout=60)
    nothing, network, identity, root, forks, memory = json.loads(said)
    assert nothing is None
    assert "Address family not supported" in network
    uid, in_tmp = identity
    assert uid == 65534
    # Python itself may lie there, as it does where this runs in a throw-away environment.
    own = [Path(one).resolve() for one in (*sys.path, sys.prefix, sys.base_prefix) if one]
    assert set(in_tmp) <= {one.parts[2] for one in own if one.is_relative_to("/tmp")}
    assert "Read-only file system" in root or "Permission denied" in root
    assert "Resource temporarily unavailable" in forks
    assert "MemoryError" in memory
