"""Runs the handlers beside it behind Lambda's Invoke API, and keeps their table as DynamoDB would.

It prints the port of each, and ends with its standard input.
"""

import importlib
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

ITEMS = {}
LOCK = threading.Lock()


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers, answer = self.answer(json.loads(body))
        answer = json.dumps(answer).encode()
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Lambda(Server):
    def answer(self, event):
        name = re.fullmatch("/2015-03-31/functions/(.*)/invocations", unquote(self.path))[1]
        try:
            return {}, importlib.import_module(name).lambda_handler(event, None)
        except Exception as error:
            print(f"{name}: {error!r}", file=sys.stderr, flush=True)
            answer = {"errorMessage": str(error), "errorType": type(error).__name__}
            return {"x-amz-function-error": "Unhandled"}, answer


class DynamoDb(Server):
    def answer(self, request):
        with LOCK:
            operation = self.headers["x-amz-target"].split(".")[1]
            if operation == "PutItem":
                ITEMS[request["Item"]["connectionId"]["S"]] = request["Item"]
                answer = {}
            elif operation == "DeleteItem":
                ITEMS.pop(request["Key"]["connectionId"]["S"], None)
                answer = {}
            else:
                answer = {"Items": list(ITEMS.values()), "Count": len(ITEMS)}
        return {"content-type": "application/x-amz-json-1.0"}, answer


ports = []
for kind in [DynamoDb, Lambda]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ports.append(server.server_port)
os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = f"http://127.0.0.1:{ports[0]}"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
for name in ["onconnect", "ondisconnect", "sendmessage"]:
    importlib.import_module(name)
print(*ports, flush=True)
sys.stdin.read()
