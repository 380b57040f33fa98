"""Writes the files of this folder with upstream's own writer (PyPI gguf), for TestUpstream.

usage: python3 make.py   (in this folder; needs gguf and numpy)
"""
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter


def write(name, **split):
    w = GGUFWriter(name, "llama", **split)
    w.add_uint8("u8", 1)
    w.add_int8("i8", -2)
    w.add_uint16("u16", 3)
    w.add_int16("i16", -4)
    w.add_uint32("u32", 5)
    w.add_int32("i32", -6)
    w.add_uint64("u64", 1 << 63)
    w.add_int64("i64", -8)
    w.add_float32("f32", 0.5)
    w.add_float64("f64", 0.25)
    w.add_bool("yes", True)
    w.add_string("text", "é")
    w.add_array("strings", ["a", "", "é"])
    w.add_array("ints", [1, -2, 3])
    w.add_array("floats", [0.5, -1.5])
    w.add_array("bools", [True, False])
    w.add_key_value("bytes", [1, 2, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)
    w.add_key_value("nested", [[1, 2], [3]], GGUFValueType.ARRAY)
    for i, n in enumerate([100, 100, 100, 300, 50, 7]):
        w.add_tensor(f"blk.{i}.weight", np.full((2, n), i + 1, dtype=np.float16))
    w.add_tensor("q.weight", np.full((3, 34 * 2), 9, dtype=np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


write("whole.gguf")
write("tensors.gguf", split_max_tensors=3)
write("bytes.gguf", split_max_size=800)

with open("types.txt", "w") as f:
    for t, (elements, size) in sorted(GGML_QUANT_SIZES.items()):
        print(t.value, t.name, elements, size, file=f)
