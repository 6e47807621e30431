"""The doctor: whatever is missing has the command that gets it."""

import json

from mmedge.profiling import doctor


def test_the_doctor_names_the_command_for_everything_that_is_missing():
    record = doctor.examine().record()
    assert record["targets"]["onnxruntime-cpu"] == {
        "build": {"ready": True, "missing": []},
        "run": {"ready": True, "missing": []},
    }
    assert set(record["targets"]) == {"onnxruntime-cpu", "openvino-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"}
    for answer in record["targets"].values():
        for finding in answer.values():
            assert finding["ready"] == (not finding["missing"])
            assert all(missing["what"] and missing["get"] for missing in finding["missing"])
    json.dumps(record, allow_nan=False)
