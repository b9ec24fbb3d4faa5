#!/usr/bin/env python3
"""Makes the fixtures in this directory. Run it only when the CRI or crictl changed:

    python3 -m venv venv && venv/bin/pip install grpcio-tools protobuf
    venv/bin/python generate.py api.proto crictl-samples/

api.proto is pkg/apis/runtime/v1/api.proto of k8s.io/cri-api, here of 0.36.4; crictl-samples/ has real output of crictl.
Google's protobuf is the second opinion on what composer/src/cri/ does: it knows the fields from api.proto alone.
"""

import datetime
import json
import pathlib
import shutil
import sys
import tempfile

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as Field
from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent
NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
EPOCH = datetime.datetime(1970, 1, 1)
# What crictl does not print, at least not on Linux; it is in the bytes all the same.
NOT_PRINTED = {"windows", "containersStatuses", "timestamp"}
SAMPLES = {
    "pods": "ListPodSandboxResponse",
    "pods_variants": "ListPodSandboxResponse",
    "ps_a": "ListContainersResponse",
    "ps_a_pod_multi": "ListContainersResponse",
    "ps_a_variants": "ListContainersResponse",
    "inspect_crash": "ContainerStatusResponse",
    "inspect_crash-spec_limits_env": "ContainerStatusResponse",
    "inspect_multi_init": "ContainerStatusResponse",
    "inspect_multi_steady_running": "ContainerStatusResponse",
    "inspectp_crash-spec": "PodSandboxStatusResponse",
    "inspectp_crash-hostnet": "PodSandboxStatusResponse",
    "inspecti_crasher": "ImageStatusResponse",
}
# Answers as they came from a socket, *_containerd-<version>.bin, by how their names begin.
CAPTURED = {
    "pods": "ListPodSandboxResponse",
    "ps": "ListContainersResponse",
    "inspect": "ContainerStatusResponse",
    "inspectp": "PodSandboxStatusResponse",
    "inspecti": "ImageStatusResponse",
}
REQUESTS = ["ListPodSandbox", "ListContainers", "PodSandboxStatus", "ContainerStatus", "ImageStatus"]
ENUMS = ["PodSandboxState", "ContainerState", "MountPropagation", "NamespaceMode", "Signal"]


def compiled(api_proto):
    """The messages of api.proto, as Python has them."""
    directory = pathlib.Path(tempfile.mkdtemp())
    shutil.copy(api_proto, directory / "api.proto")
    if protoc.main(["protoc", f"-I{directory}", f"--python_out={directory}", "api.proto"]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, str(directory))
    import api_pb2

    return api_pb2


def nanoseconds(text):
    """2026-11-22T19:31:01.5Z -> 1795375861500000000, and the zero time -> 0, as containerd has it."""
    if text == NEVER:
        return 0
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    since = datetime.datetime.fromisoformat(seconds) - EPOCH
    return (since.days * 86400 + since.seconds) * 10**9 + int(fraction.ljust(9, "0") or 0)


def rfc3339(nanos):
    """The way back."""
    seconds, fraction = divmod(int(nanos), 10**9)
    text = (EPOCH + datetime.timedelta(seconds=seconds)).isoformat()
    return text + f".{fraction:09}".rstrip("0").rstrip(".") + "Z"


def answer_behind(api, name, printed):
    """What a runtime must have said for crictl to print this."""
    answer = getattr(api, SAMPLES[name])()
    if "items" in printed or "containers" in printed:
        # crictl sorts; what a runtime does is its own affair.
        answer_json = {key: items[::-1] for key, items in printed.items()}
    else:
        status = dict(printed["status"])
        for time in ("createdAt", "startedAt", "finishedAt"):
            if time in status:
                status[time] = nanoseconds(status[time])
        info = {key: json.dumps(value, separators=(",", ":")) for key, value in printed.items() if key != "status"}
        answer_json = {"image" if name.startswith("inspecti_") else "status": status, "info": info}
    json_format.ParseDict(answer_json, answer)
    return answer.SerializeToString(deterministic=True)


class Sink:
    """Sets every field there is, each to something of its own."""

    def __init__(self):
        self.count = 0

    def scalar(self, field):
        self.count += 1
        return {
            Field.TYPE_STRING: lambda: f'"{field.name}"\n\0\u2028\\ {self.count}',
            Field.TYPE_BYTES: lambda: b"\0\xff%d" % self.count,
            Field.TYPE_INT32: lambda: -(2**31) + self.count,
            Field.TYPE_UINT32: lambda: 2**32 - self.count,
            Field.TYPE_INT64: lambda: -(2**53) - self.count,
            Field.TYPE_UINT64: lambda: 2**64 - self.count,
            Field.TYPE_ENUM: lambda: field.enum_type.values[-1 - self.count % (len(field.enum_type.values) - 1)].number,
        }[field.type]()

    def fill(self, message, nth=0):
        bools = [field.name for field in message.DESCRIPTOR.fields if field.type == Field.TYPE_BOOL]
        for field in message.DESCRIPTOR.fields:
            value = getattr(message, field.name)
            if field.message_type and field.message_type.GetOptions().map_entry:
                if field.message_type.fields_by_name["value"].type == Field.TYPE_STRING:
                    value.update({f"b {field.name}": self.scalar(field.message_type.fields[1]), "a": "", "": "c"})
            elif field.is_repeated:
                for element in range(2):
                    if field.message_type:
                        self.fill(value.add(), element)
                    else:
                        value.append(self.scalar(field))
            elif field.message_type:
                self.fill(value)
            elif field.type == Field.TYPE_BOOL:
                # No two of a message are the same in both elements.
                setattr(message, field.name, bool(bools.index(field.name) + 1 >> nth & 1))
            else:
                setattr(message, field.name, self.scalar(field))


def bare(message):
    """Sets what may be unset to something empty, and each enum to a number nobody knows."""
    for field in message.DESCRIPTOR.fields:
        if field.type == Field.TYPE_ENUM:
            setattr(message, field.name, 77)
        elif field.message_type and not field.is_repeated:
            getattr(message, field.name).SetInParent()
            bare(getattr(message, field.name))


def as_json(message):
    """protojson, without what crictl leaves out."""

    def printed(value):
        match value:
            case dict():
                return {key: printed(value) for key, value in value.items() if key not in NOT_PRINTED}
            case list():
                return [printed(value) for value in value]
        return value

    return printed(json_format.MessageToDict(message, always_print_fields_with_no_presence=True))


def as_crictl(message):
    """What crictl prints of an answer."""
    printed = as_json(message)
    for items in {"items", "containers"} & printed.keys():
        printed[items].sort(key=lambda item: -int(item["createdAt"]))
        return printed
    name = "image" if "image" in printed else "status"
    status, info = printed[name], printed["info"]
    for key, value in info.items():
        try:
            info[key] = json.loads(value)
        except ValueError:
            pass
    if name == "status":
        # crictl goes through the fields, and prints null for one that is not there.
        for field in message.status.DESCRIPTOR.fields:
            status.setdefault(field.json_name, None)
        for time in {"createdAt", "startedAt", "finishedAt"} & status.keys():
            status[time] = rfc3339(status[time])
        created, exited = "CONTAINER_CREATED", "CONTAINER_EXITED"
        if "startedAt" in status and status["state"] == created:
            status["startedAt"] = NEVER
        if "finishedAt" in status and status["state"] != exited:
            status["finishedAt"] = NEVER
    return {"status": status, **info}


def sinks(api):
    """Messages that have everything, next to nothing, and nothing, as bytes and as JSON."""

    def case(message, printed):
        return {
            "type": message.DESCRIPTOR.name,
            "bytes": message.SerializeToString(deterministic=True).hex(),
            "json": printed,
        }

    for name in REQUESTS:
        message = getattr(api, name + "Request")()
        Sink().fill(message)
        yield case(message, as_json(message))
    for name, items in (("ListPodSandboxResponse", "items"), ("ListContainersResponse", "containers")):
        message = getattr(api, name)()
        for set_up, created_at in ((Sink().fill, -(2**63)), (bare, 2**63 - 1), (lambda _: None, 0)):
            item = getattr(message, items).add()
            set_up(item)
            item.created_at = created_at
        yield case(message, as_crictl(message))
    for name, status in (("PodSandboxStatus", "status"), ("ContainerStatus", "status"), ("ImageStatus", "image")):
        for set_up in (Sink().fill, bare, lambda _: None):
            message = getattr(api, name + "Response")()
            set_up(message)
            getattr(message, status).SetInParent()
            if set_up.__name__ == "fill" and name == "ContainerStatus":
                message.status.state = api.CONTAINER_EXITED
            yield case(message, as_crictl(message))


def main(api_proto, samples):
    api = compiled(api_proto)
    for name in SAMPLES:
        sample = pathlib.Path(samples) / f"{name}.json"
        (HERE / f"{name}.json").write_bytes(sample.read_bytes())
        (HERE / f"{name}.bin").write_bytes(answer_behind(api, name, json.loads(sample.read_text())))
    for captured in HERE.glob("*_containerd-*.bin"):
        answer = getattr(api, CAPTURED[captured.name.split("_")[0]])()
        answer.ParseFromString(captured.read_bytes())
        printed = json.dumps(as_crictl(answer), indent=1, sort_keys=True)
        captured.with_suffix(".json").write_text(printed + "\n")
    enums = {name: dict(getattr(api, name).items()) for name in ENUMS}
    text = json.dumps({"messages": list(sinks(api)), "enums": enums}, indent=1, sort_keys=True)
    (HERE / "sinks.json").write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
