import json

import torch

from richrep.evaluation.environment import cpu_model, describe_environment


def test_the_environment_fits_into_a_record_and_names_no_host():
    facts = describe_environment("cpu")
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert {"richrep", "python", "device", "platform", "cpu", "cores"} <= facts.keys()
    assert "node" not in facts and "user" not in facts
    assert json.loads(json.dumps(facts)) == facts


def test_the_processor_has_a_name_also_where_the_system_tells_none(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Good CPU @ 2 GHz\n")
    assert cpu_model(cpuinfo) == "Good CPU @ 2 GHz"
    assert cpu_model(tmp_path / "absent")
    cpuinfo.write_text("processor\t: 0\n")
    assert cpu_model(cpuinfo)
