"""The benchmark of the kernels on tiny layers: what it writes, what it checks, what it refuses."""

import json
import math
import mmap
import subprocess
import sys
import time

import pytest
import torch

from bestiary.kernels import tuning, use_backend
from bestiary.kernels.neighborhood_attention import dispatch, flex
from bestiary.tools import bench_kernels, benchmark, kernel_contestants, kernel_memory, kernel_shapes, timing
from bestiary.tools.growth import Growth
from bestiary.tools.kernel_contestants import Case, Contestant, Problem

CPU = torch.device("cpu")
TINY = Problem(Case((9, 8), 2, 2, 3, 8), 2, torch.float32, CPU, backward=False, bias=False)
PEAKS = {"bytes": 1e10, "flops": 1e11}


@pytest.fixture(autouse=True)
def plain_backend():
    """Nothing is compiled for these tests: ours is the reference."""
    threads = torch.get_num_threads()
    with use_backend("reference"):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def known_peaks(monkeypatch):
    monkeypatch.setattr(bench_kernels.machine, "peaks", lambda device, threads: dict(PEAKS))


def test_the_record_of_a_run(tmp_path, known_peaks, capsys):
    out = tmp_path / "record.json"
    status = benchmark.main(
        ["kernels", "--shapes", "9x8,h2,d2,k3,D8", "6x6,h1,k3", "--dtype", "float32", "bfloat16", "--bias", "both"]
        + ["--seconds", "0.01", "--batch", "2", "--peers", "SDPA", "windows", "gather", "NATTEN", "--out", str(out)]
    )
    record = json.loads(out.read_text())
    assert status == 0 and record["tool"] == "bench_kernels" and record["arguments"]["threads"] == 1
    assert {"cpu", "cores", "vectors", "memory_gb", "when"} <= set(record["machine"])
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0]) and "commit" in record["versions"]
    assert record["peaks"] == PEAKS
    assert len(record["results"]) == 2 * 2 * 2 * 2  # layers, dtypes, passes, bias
    for result in record["results"]:
        known = result["contestants"]
        timed = {"ours", "SDPA with a mask", "windows by as_strided", "gather"}
        timed |= {"ours without bias"} if result["bias"] else set()
        timed |= {"ours in float32"} if result["dtype"] == "bfloat16" else set()
        assert set(known) == timed | {"NATTEN"}
        for name in timed:
            assert 0 < known[name]["best_ms"] <= known[name]["median_ms"] and known[name]["calls"] >= 3
            assert known[name]["error"] < bench_kernels.TOLERANCE[getattr(torch, result["dtype"])]
            if name != "ours":
                ratio = known[name]["median_ms"] / known["ours"]["median_ms"]
                assert result["ratios"][name]["median"] == pytest.approx(ratio)
                ratio = known[name]["processor_ms"] / known["ours"]["processor_ms"]
                assert result["ratios"][name]["processor"] == pytest.approx(ratio)
        assert "median_ms" not in known["NATTEN"] or known["NATTEN"]["error"] < 1e-4
        assert result["backend"] == "reference" and result["load"]["before"] >= 0
        assert result["floor"]["seconds"] > 0 and result["times_the_floor"]["best"] > 1
        assert 0 < result["part_of_peak"] < 1
    summary = record["summary"]
    assert summary["ratios"]["gather, forward, float32"]["layers"] == 2
    assert set(summary["backward_in_forwards"]) == {
        f"{case}, {dtype}{bias}"
        for case in ("9x8 h2 d2 k3 D8", "6x6 h1 d1 k3")
        for dtype in ("float32", "bfloat16")
        for bias in ("", ", bias")
    }
    printed = capsys.readouterr().out
    assert "windows by as_strided" in printed and "times the floor" in printed and "geometric mean" in printed


def slightly_wrong(problem):
    right = kernel_contestants.of_gather().prepare(problem)
    return lambda q, k, v, bias: right(q, k, v, bias) * 1.001


def wrong_in_gradients_alone(problem):
    right = kernel_contestants.of_gather().prepare(problem)
    return lambda q, k, v, bias: right(q, k.detach() + 0 * k, v, bias)


def not_a_number(problem):
    return lambda q, k, v, bias: q * math.nan


def of_another_shape(problem):
    return lambda q, k, v, bias: q[:, :1]


def failing(problem):
    raise RuntimeError("no kernel image is available\nfor this device")


def one_window_to_the_side(problem):
    moved = problem._replace(case=problem.case._replace(kernel_size=problem.case.kernel_size - 1))
    return kernel_contestants.of_gather().prepare(moved)


@pytest.mark.parametrize("prepare", [slightly_wrong, not_a_number, of_another_shape, one_window_to_the_side])
def test_a_wrong_peer_is_told_and_not_timed(prepare):
    entrants = [kernel_contestants.of_backend(), Contestant("peer", prepare)]
    result = bench_kernels.measure(TINY, entrants, 0.01, PEAKS)
    assert set(result["contestants"]["peer"]) == {"wrong"} and "peer" not in result["ratios"]
    assert "median_ms" in result["contestants"]["ours"]
    assert any("peer: WRONG, deviates by" in str(part) for part in bench_kernels.show(result).renderables)


def test_wrong_gradients_are_found():
    entrants = [Contestant("peer", wrong_in_gradients_alone)]
    known = bench_kernels.measure(TINY, entrants, 0.01, PEAKS)["contestants"]["peer"]
    assert "median_ms" in known, "the output alone is right"
    known = bench_kernels.measure(TINY._replace(backward=True), entrants, 0.01, PEAKS)["contestants"]["peer"]
    assert known["wrong"] > 0.1


def test_a_failing_peer_does_not_stop_the_rest():
    result = bench_kernels.measure(TINY, [kernel_contestants.of_backend(), Contestant("peer", failing)], 0.01, PEAKS)
    assert result["contestants"]["peer"] == {"left_out": "RuntimeError: no kernel image is available"}
    assert "median_ms" in result["contestants"]["ours"]


def test_wrong_figures_of_ours_are_the_exit_status(monkeypatch, known_peaks, capsys):
    monkeypatch.setattr(kernel_contestants, "of_backend", lambda: Contestant("ours", not_a_number))
    arguments = ["--shapes", "6x6,h1,k3", "--passes", "forward", "--peers", "--seconds", "0.01"]
    assert bench_kernels.main(arguments) == 1
    assert "WRONG, deviates by not finite" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", [Case((9, 8), 2, 2, 3, 8), Case((7, 7), 1, 1, 7, 4), Case((10, 13), 2, 1, 4, 5)])
def test_peers_in_plain_pytorch_compute_the_same(case, bias):
    problem = TINY._replace(case=case, bias=bias, backward=True)
    wanted = kernel_contestants.truth(problem, problem.tensors())
    for peer in (kernel_contestants.of_sdpa(), kernel_contestants.of_windows(), kernel_contestants.of_gather()):
        got = kernel_contestants.run(peer.prepare(problem), problem.tensors(), True)
        assert len(got) == 4 + bias and kernel_contestants.error(got, wanted) < 1e-5, peer.name


def test_attention_to_the_whole_map_is_judged_by_that():
    entrants = [kernel_contestants.of_backend(), kernel_contestants.of_dense()]
    result = bench_kernels.measure(TINY._replace(backward=True), entrants, 0.01, PEAKS)
    assert result["ratios"]["SDPA to the whole map"]["best"] > 0
    result = bench_kernels.measure(TINY, [entrants[0], entrants[1]._replace(whole=False)], 0.01, PEAKS)
    assert result["contestants"]["SDPA to the whole map"]["wrong"] > 0.1
    assert kernel_contestants.of_dense().prepare(TINY._replace(bias=True)) == "it takes no bias"
    large = TINY._replace(case=Case((200, 334), 2, 1))
    assert kernel_contestants.of_dense().prepare(large) == "checking it takes 71.4 GB"


def test_peers_on_gpus_are_more():
    on_cpus, on_gpus = ({peer.name for peer in kernel_contestants.peers(torch.device(d))} for d in ("cpu", "cuda"))
    assert on_gpus - on_cpus == {"NATTEN, cutlass-fna", "SDPA to the whole map"}


def test_flex_takes_part_at_its_best_block_size(monkeypatch):
    tried = []

    def run(q, k, v, bias, extra_k, extra_v, window, scale, block_size):
        tried.append(block_size)
        if block_size == 64:
            raise RuntimeError("64 is not supported")
        for _ in range(1 if block_size == 16 else 40):
            out = flex.neighborhood(q, k, v, bias, None, None, window, scale)
        return out

    reference = kernel_contestants.neighborhood_attention_reference
    monkeypatch.setattr(flex, "neighborhood", reference, raising=False)
    monkeypatch.setattr(flex, "run", run)
    monkeypatch.setattr(flex, "why_not", lambda call: None)
    attention = kernel_contestants.of_flex((16, 32, 64, 512)).prepare(TINY)
    assert set(tried) == {16, 32, 64}, "72 tokens need no block of 512"
    tried.clear()
    kernel_contestants.run(attention, TINY.tensors(), False)
    assert tried == [16]


def test_masks_that_would_not_fit_are_left_out():
    problem = TINY._replace(case=Case((200, 334), 2, 1))
    assert kernel_contestants.of_sdpa().prepare(problem) == "its mask takes 17.8 GB"


def test_floors_are_those_of_the_operator():
    case = Case((56, 56), 4, 1)
    problem = Problem(case, 128, torch.bfloat16, CPU, backward=False, bias=False)
    queries = 128 * 56 * 56 * 4
    peaks = {"bytes": 3.0e12, "flops": None}
    forward = bench_kernels.floor(problem, peaks)
    assert (forward["bytes"], forward["flop"], forward["exponentials"]) == (260 * queries, 6272 * queries, 49 * queries)
    assert forward["seconds"] == pytest.approx(139e-6, rel=0.01)
    both = bench_kernels.floor(problem._replace(backward=True), peaks)
    assert both["seconds"] - forward["seconds"] == pytest.approx(281e-6, rel=0.03)
    assert both["flop"] == 3.5 * forward["flop"]
    bound_by_flop = bench_kernels.floor(problem, {"bytes": 1e15, "flops": 1e11})
    assert bound_by_flop["seconds"] == pytest.approx(6272 * queries / 1e11)


def test_turns_are_interleaved():
    order = []

    def contestant(name, seconds):
        def turn():
            order.append(name)
            return [timing.Sample(seconds, 0.5), timing.Sample(seconds * 3, 1.5)]

        return turn

    timings, load = timing.in_turns({"a": contestant("a", 1.0), "b": contestant("b", 2.0)}, seconds=0, least=4)
    assert "".join(order) == "abba" * 2
    assert timings["a"] == timing.Timing(2.0, 1.0, 8, 1.0) and timings["b"].best == 2.0
    assert load.before >= 0 and load.after >= 0
    order.clear()
    timing.in_turns({"a": contestant("a", 1.0)}, seconds=1000, most=5)
    assert len(order) == 5


def test_fast_calls_fill_a_turn():
    calls = []
    taken = timing.on_cpu(lambda: calls.append(1), turn=0.001)
    assert len(taken) + 1 == len(calls) > 10  # the first is not counted
    assert sum(sample.wall for sample in taken) >= 0.001
    assert len(timing.on_cpu(lambda: calls.append(1), turn=0)) == 1


def test_time_that_others_have_the_processor_is_not_counted_as_the_processors():
    (sample,) = timing.on_cpu(lambda: time.sleep(0.05), turn=0)
    assert sample.wall >= 0.05 and sample.processor < 0.02
    (sample,) = timing.on_cpu(lambda: sum(range(2_000_000)), turn=0)
    assert 0.005 < sample.processor < 1.2 * sample.wall


def test_layers_by_name():
    assert kernel_shapes.parse("28x30,h8,d2") == [Case((28, 30), 8, 2)]
    assert kernel_shapes.parse("28x28,h8,k5,D64")[0].name == "28x28 h8 d1 k5 D64"
    headline = [case.name for case in kernel_shapes.SETS["headline"]]
    assert headline == ["56x56 h4 d1", "28x28 h8 d1", "28x28 h8 d2", "28x28 h8 d4"]
    for name, cases in kernel_shapes.SETS.items():
        for case in cases:
            assert case.kernel_size * case.dilation <= min(case.spatial), (name, case)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("huge", "'huge' is none of headline, nat, dinat, detection, segmentation, isotropic and no layer as 28x28,h8"),
        ("28x28", "heads have to be given"),
        ("28x28,h8,q3", "is none of headline"),
        ("28x28,h8,", "is none of headline"),
        ("14x14,h2,d3", "kernel_size * dilation has to fit into the map"),
    ],
)
def test_layers_that_are_none(text, reason, capsys):
    assert bench_kernels.main(["--shapes", text]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: --shapes: ") and reason in err


def test_a_gpu_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_kernels.main(["--device", "cuda"]) == 1
    assert "PyTorch finds no CUDA device" in capsys.readouterr().err


def test_benchmark_names_its_subjects(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--help"])
    assert stop.value.code == 0 and "kernels    fused operators against" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["kernel"])
    assert stop.value.code == 2


def test_tuning_writes_the_order_that_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "cache_folder", lambda: tmp_path)
    entry = dispatch.BACKENDS["cpu"]._replace(unavailable=lambda: "not for this test")
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", entry)
    arguments = ["--tune", "--shapes", "3x3,h2,k3,D8", "9x9,h2,k3,D8", "--seconds", "0.02"]
    assert bench_kernels.main([*arguments, "--passes", "forward"]) == 0
    entries = tuning.read(tuning.user_table("neighborhood_attention"))
    whole, part = (f"cpu float32 forward 2d tokens{n} keys4 channels3 heads1" for n in (4, 7))
    assert set(entries) == {whole, part}
    assert set(entries[whole]) == {"reference", "sdpa"} and set(entries[part]) == {"reference"}
    assert entries[whole]["sdpa"] < entries[whole]["reference"]
    assert "2 orders in" in capsys.readouterr().out
    table = tmp_path / "elsewhere.json"
    assert bench_kernels.main([*arguments[:3], "--seconds", "0.02", "--table", str(table)]) == 0
    assert {kind.split()[2] for kind in tuning.read(table)} == {"forward", "backward"}


def test_memory_of_a_process_is_that_of_its_largest_moment():
    size = 48 << 20

    def block():
        """From the system: what this process has freed before, the allocator would give again."""
        pages = mmap.mmap(-1, size)
        for page in range(0, size, 4096):
            pages[page] = 1
        return pages

    with Growth(CPU) as growth:
        first, second = block(), block()  # two at a time at most
        first.close()
        third = block()
    assert 1.9 * size < growth.bytes < 2.3 * size
    with Growth(CPU) as growth:
        third[: 1 << 20] = bytes(1 << 20)
    assert growth.bytes < 0.1 * size
    second.close()
    third.close()


def test_memory_beside_inputs_and_outputs(monkeypatch):
    monkeypatch.setattr(kernel_memory, "LEAST_BYTES", 24 << 20)
    problem = kernel_memory.enlarged(TINY._replace(case=Case((32, 32), 2, 1, 3, 16)))
    assert problem.batch == 64 and problem.tensors()[0].nbytes == 8 << 20
    hungry = 40 << 20

    def prepare(some):
        def attention(q, k, v, bias):
            # From the system: what this process has freed before, the allocator would give again.
            with mmap.mmap(-1, hungry if some.batch > 1 else 4096) as block:
                for page in range(0, len(block), 4096):
                    block[page] = 1
                return q + v

        return attention

    monkeypatch.setattr(kernel_memory, "of_backend", lambda: Contestant("ours", prepare))
    found = kernel_memory.in_this_process(problem)
    assert found["batch"] == 64 and found["qkv"] == 24 << 20
    lean = found["extra"]["forward"]
    assert lean["part"] == lean["bytes"] / found["qkv"]
    # Besides, the output, where it is new to the process.
    grown = lean["bytes"] + (8 << 20) + problem.batch * 32 * 32 * 2 * 4
    assert 0.9 * hungry < grown < 1.4 * hungry


@pytest.mark.slow
def test_memory_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("BESTIARY_BACKEND", "reference")
    found = kernel_memory.measure(TINY._replace(case=Case((32, 32), 2, 1, 3, 16), backward=True), threads=1)
    assert found["qkv"] >= kernel_memory.LEAST_BYTES
    extra = found["extra"]  # the reference gathers, and keeps that for its backward
    assert extra["forward"]["part"] > 5 and 0.2 < extra["backward"]["part"] < 5


def test_the_processors_peak_is_above_what_a_product_of_matrices_reaches():
    from bestiary.errors import InputError
    from bestiary.kernels import peak

    try:
        found = peak.peak_flops(1, 0.2)
    except InputError as error:
        pytest.skip(str(error))
    assert found.vectors in ("avx512", "avx2", "portable") and found.threads == 1
    torch.set_num_threads(1)
    a, b = torch.randn(2, 512, 512)
    best = min(timing.on_cpu(lambda: a @ b, turn=0.3)).wall
    assert found.flops > 0.9 * 2 * 512**3 / best or found.vectors == "portable"
    assert peak.copy_bytes(CPU, megabytes=8, rounds=3) > 1e8


def test_the_tool_runs_as_a_file(tmp_path):
    command = [sys.executable, bench_kernels.__file__, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "bestiary benchmark kernels" in done.stdout, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_gpu(tmp_path):
    out = tmp_path / "record.json"
    status = bench_kernels.main(
        ["--device", "cuda", "--shapes", "14x14,h2,k7,D32", "--dtype", "bfloat16", "--batch", "4", "--seconds", "0.1"]
        + ["--memory", "--out", str(out)]
    )
    record = json.loads(out.read_text())
    assert status == 0 and record["machine"]["gpu"] and record["peaks"]["bytes"] > 1e11
    for result in record["results"]:
        assert result["ratios"]["gather"]["median"] > 0 and result["contestants"]["gather"]["graph"] in (True, False)
