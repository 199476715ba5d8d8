"""A chat room: what one says, all others hear.

    pip install boto3
    python3 backend.py 127.0.0.1:9000 http://127.0.0.1:8081/dev
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3

# Who signs is said by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The region is not looked at.
posthorn = boto3.client("apigatewaymanagementapi", endpoint_url=sys.argv[2], region_name="us-east-1")

# Names, by connection ID. Where several processes are the backend, this is a table that they share.
members = {}


def connect(connection_id, event):
    name = event.get("queryStringParameters", {}).get("name")
    if not name:
        return 400, {"message": "say who you are: ?name=…"}
    members[connection_id] = name
    return 200, None


def message(connection_id, event):
    said = json.loads(event["body"])
    text = json.dumps({"from": members[connection_id], "text": said["text"]})
    others = [member for member in list(members) if member != connection_id]
    return 200, {"heard_by": sum(post(member, text) for member in others)}


def disconnect(connection_id, event):
    # It may be told twice, so that it must not matter.
    members.pop(connection_id, None)
    return 200, None


def post(connection_id, text):
    """Whether it arrived at the node that holds the connection."""
    try:
        posthorn.post_to_connection(ConnectionId=connection_id, Data=text.encode())
        return True
    except posthorn.exceptions.GoneException:
        # It is over for good. `$disconnect` is called as well, but this may come first.
        members.pop(connection_id, None)
        return False


class Backend(BaseHTTPRequestHandler):
    # Posthorn keeps connections to its backends open.
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        handlers = {"CONNECT": connect, "MESSAGE": message, "DISCONNECT": disconnect}
        context = event["requestContext"]
        status, answer = handlers[context["eventType"]](context["connectionId"], event)
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


host, port = sys.argv[1].split(":")
server = ThreadingHTTPServer((host, int(port)), Backend)
print("listening", flush=True)
server.serve_forever()
