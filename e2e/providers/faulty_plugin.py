"""The plug-in of examples/key-plugin, with faults: a file holds the name of the status that every call ends with."""

import os
import sys
from pathlib import Path

import grpc

sys.path.insert(0, os.environ["EXAMPLE"])
import server


class Faults(grpc.ServerInterceptor):
    def intercept_service(self, continuation, details):
        fault = Path(os.environ["FAULT"])
        name = fault.read_text().strip() if fault.exists() else ""
        if not name:
            return continuation(details)
        return grpc.unary_unary_rpc_method_handler(lambda _, call: call.abort(grpc.StatusCode[name], "as asked for"))


server.main([Faults()])
