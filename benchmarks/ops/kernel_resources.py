"""Registers, spills, shared memory, load widths and instructions of every Triton kernel, without any GPU.

`python -m benchmarks.ops.kernel_resources --json OUT --markdown OUT` compiles each kernel ahead of time for
each compute capability, asks the cuobjdump of Triton's wheel what the machine code needs, reads the widths of
its loads and stores from the PTX, and counts the machine code's instructions by kind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before the kernels are imported: interpreted ones cannot be compiled

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastsemi.kernels.augment.kernel import pass_kernel, statistics_kernel, tables_kernel
from fastsemi.kernels.augment.operator import MAX_GROUPS as AUGMENT_GROUPS
from fastsemi.kernels.blocks.launch import row_block
from fastsemi.kernels.mix.kernel import PARTS, mix_kernel
from fastsemi.kernels.mix.operator import MAX_GROUPS
from fastsemi.kernels.pseudo_label import pseudo_label_kernel
from fastsemi.kernels.soft_ce import soft_ce_backward_kernel, soft_ce_forward_kernel

CAPABILITIES = (70, 75, 80, 90, 100, 120)
COUNTED = 90  # of which instructions are counted

# Instructions of sm_90 by what they begin with. What is in no kind moves, branches, waits or selects.
KINDS = {
    "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP", "FCHK", "MUFU",
              "DADD", "DMUL", "DFMA", "DSETP"),
    "integer": ("IMAD", "IADD", "VIADD", "UIADD", "UIMAD", "ISETP", "UISETP", "LOP3", "ULOP3", "LEA", "ULEA",
                "SHF", "USHF", "PRMT", "IMNMX", "VIMNMX", "IABS", "PLOP3"),
    "convert": ("I2F", "I2FP", "F2I", "F2F", "F2FP", "F2IP", "FRND"),
    "memory": ("LDG", "STG", "LDS", "STS", "LDC", "ULDC", "LDSM", "STSM", "ATOM", "RED"),
}  # fmt: skip

# Types of the arguments by name; "half" is bf16, or fp16 before Ampere. What is not here is a constant.
TYPES = {
    **dict.fromkeys(("images", "scratch", "tables"), "*u8"),
    **dict.fromkeys(("passes", "op", "partial"), "*i32"),
    **dict.fromkeys(("arg",), "*fp32"),
    "affine": "*fp64",
    "cutmix": "*i1",
    **dict.fromkeys(("erase_box", "erase_key", "partner"), "*i64"),
    **dict.fromkeys(("label", "label_a", "label_b"), "*i64"),
    **dict.fromkeys(("centre", "lam", "confidence", "weight", "loss", "log_sum", "grad_loss"), "*fp32"),
    "out_lam": "*fp32",
    "smoothing": "fp32",
    **dict.fromkeys((f"{name}{c}" for name in ("mean", "scale", "fill") for c in range(3)), "fp32"),
}


@dataclass(frozen=True)
class Case:
    """A kernel with the constants of one use of it."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    warps: int
    types: dict[str, str]  # of tensors that come in several: "half", "fp32" or "u8"
    wide_loads: int  # 16-byte loads that the layout allows, at the least


def _rows(name: str, kernel: Any, classes: int, floats: tuple[str, ...], wide_loads: int) -> Case:
    block, warps = row_block(classes)
    constants = {"STRIDE": classes, "C": classes, "BLOCK": block}
    return Case(f"{name}, C = {classes}", kernel, constants, warps, dict.fromkeys(floats, "half"), wide_loads)


def _mix(name: str, wide_loads: int, kind: str = "half", size: int = 224, **constants: Any) -> Case:
    used = {
        "SIZE": size, "MIX": True, "ERASE": True, "WIDE": size % 16 == 0, "GROUPS": MAX_GROUPS, "EVEN": 0,
        **constants,
    }  # fmt: skip
    used["BOXES"] = (1 + used["MIX"]) * PARTS.value * (used["ERASE"] and used["WIDE"])
    return Case(f"mix, {name}", mix_kernel, used, MAX_GROUPS // 32, {"out": kind}, wide_loads)


def _augment(
    name: str,
    kernel: Any,
    wide_loads: int,
    size: int = 224,
    warps: int = AUGMENT_GROUPS // 32,
    **constants: Any,
) -> Case:
    used = {
        "HEIGHT": size, "WIDTH": size, "WIDE": size % 4 == 0, "GROUPS": AUGMENT_GROUPS, **constants,
    }  # fmt: skip
    return Case(f"augment, {name}", kernel, used, warps, {"out": "u8"}, wide_loads)


CASES = (
    _rows("pseudo_label", pseudo_label_kernel, 1000, ("logits",), 2),
    _rows("pseudo_label", pseudo_label_kernel, 21841, ("logits",), 0),
    _rows("soft_ce forward", soft_ce_forward_kernel, 1000, ("logits",), 2),
    _rows("soft_ce forward", soft_ce_forward_kernel, 21841, ("logits",), 0),
    _rows("soft_ce backward", soft_ce_backward_kernel, 1000, ("logits", "grad_logits"), 2),
    _mix("erase", 6),
    _mix("erase, fp32", 6, kind="fp32"),
    _mix("erase, side 98", 0, size=98),
    _mix("nothing erased", 6, ERASE=False),
    _mix("normalise only", 3, MIX=False, ERASE=False),
    _augment("statistics", statistics_kernel, 3),
    _augment("statistics, side 98", statistics_kernel, 0, size=98, warps=AUGMENT_GROUPS // 16),
    Case("augment, tables", tables_kernel, {"PIXELS": 224 * 224, "TILES": 25}, 4, {}, 0),
    _augment("pass", pass_kernel, 3),
    _augment("pass, side 98", pass_kernel, 0, size=98),
)


def compile_case(index: int, capability: int) -> dict[str, Any]:
    """Compile one case for one capability and say what its machine code needs."""
    case = CASES[index]
    half = "bf16" if capability >= 80 else "fp16"
    types = {**TYPES, **{name: f"*{half if kind == 'half' else kind}" for name, kind in case.types.items()}}
    names = case.kernel.arg_names
    signature = {name: "constexpr" if name in case.constants else types[name] for name in names}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name][0] == "*"
    }
    source = ASTSource(case.kernel, signature=signature, constexprs=case.constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": case.warps})
    return {
        "kernel": case.name,
        "capability": capability,
        "type": half if "half" in case.types.values() else "fp32",
        **_resources(compiled.asm["cubin"]),
        "shared_bytes": compiled.metadata.shared,
        "warps": case.warps,
        **_widths(compiled.asm["ptx"]),
        "least_wide_loads": case.wide_loads,
        **({"instructions": _instructions(compiled.asm["cubin"])} if capability == COUNTED else {}),
    }


def _cuobjdump(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, what, file.name], check=True, capture_output=True, text=True).stdout


def _instructions(cubin: bytes) -> dict[str, int]:
    """How many there are in all, whether or not a thread comes to them, and of each kind."""
    code = _cuobjdump(cubin, "--dump-sass")
    names = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", code, re.MULTILINE)
    names = [name for name in names if name != "NOP"]
    return {"all": len(names), **{kind: sum(map(names.count, known)) for kind, known in KINDS.items()}}


def _resources(cubin: bytes) -> dict[str, int]:
    used = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", _cuobjdump(cubin, "--dump-resource-usage")))
    # A spilled register lies on the stack, or in local memory at a fixed address.
    return {"registers": int(used["REG"]), "spill_bytes": int(used["STACK"]) + int(used["LOCAL"])}


def _widths(ptx: str) -> dict[str, int]:
    def count(pattern: str) -> int:
        return len(re.findall(pattern, ptx))

    wide = r"(?:v4\.[bfsu]32|v2\.[bfsu]64|v8\.[bfsu]16)"
    return {
        "wide_loads": count(rf"ld\.global[.\w:]*\.{wide}"),
        "loads": count(r"ld\.global"),
        "wide_stores": count(rf"st\.global[.\w:]*\.{wide}"),
        "stores": count(r"st\.global"),
    }


def compile_all(capabilities: tuple[int, ...] = CAPABILITIES, processes: int = 2) -> list[dict[str, Any]]:
    """One row a case and capability, in order."""
    work = [(index, capability) for index in range(len(CASES)) for capability in capabilities]
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        return list(pool.map(compile_case, *zip(*work, strict=True)))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Registers a thread by kernel and capability, and the width of the memory accesses."""
    capabilities = sorted({row["capability"] for row in rows})
    lines = [
        "| kernel | " + " | ".join(f"sm_{c}" for c in capabilities) + " | 16-byte loads | 16-byte stores |",
        "|---|" + "--:|" * (len(capabilities) + 2),
    ]
    for case in CASES:
        mine = {row["capability"]: row for row in rows if row["kernel"] == case.name}
        last = mine[capabilities[-1]]
        registers = " | ".join(str(mine[c]["registers"]) for c in capabilities)
        lines.append(
            f"| {case.name} | {registers} | {last['wide_loads']} of {last['loads']} "
            f"| {last['wide_stores']} of {last['stores']} |"
        )
    return "\n".join(lines) + "\n"


def counts(rows: list[dict[str, Any]]) -> str:
    """Instructions by kernel and kind."""
    kinds = ("all", *KINDS)
    lines = ["| kernel | " + " | ".join(kinds) + " |", "|---|" + "--:|" * len(kinds)]
    for row in rows:
        if found := row.get("instructions"):
            lines.append(f"| {row['kernel']} | " + " | ".join(f"{found[kind]:,}" for kind in kinds) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    args = parser.parse_args()
    rows = compile_all()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.markdown:
        args.markdown.write_text(f"{markdown(rows)}\nInstructions, sm_{COUNTED}:\n\n{counts(rows)}")
    spilling = [row for row in rows if row["spill_bytes"]]
    print(counts(rows))
    print(f"{len(rows)} compilations, triton {triton.__version__}, spilling: {spilling or 'none'}")


if __name__ == "__main__":
    main()
