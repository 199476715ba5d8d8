"""Calls of boto3's apigatewaymanagementapi, one for each line of standard input."""

import base64
import json
import sys

import boto3
from botocore.exceptions import ClientError

endpoint, key, secret = sys.argv[1:]
client = boto3.client(
    "apigatewaymanagementapi",
    endpoint_url=endpoint,
    region_name="eu-west-1",
    aws_access_key_id=key,
    aws_secret_access_key=secret,
)


def call(name, connection, data):
    if name == "post":
        return client.post_to_connection(ConnectionId=connection, Data=base64.b64decode(data))
    if name == "get":
        return client.get_connection(ConnectionId=connection)
    return client.delete_connection(ConnectionId=connection)


for line in sys.stdin:
    try:
        answer = call(**json.loads(line))
        metadata = answer.pop("ResponseMetadata")
        told = {
            "status": metadata["HTTPStatusCode"],
            "repetitions": metadata["RetryAttempts"],
            "sourceIp": answer.get("Identity", {}).get("SourceIp"),
            "connectedAt": answer["ConnectedAt"].timestamp() if "ConnectedAt" in answer else None,
        }
    except ClientError as error:
        response = error.response
        told = {
            "status": response["ResponseMetadata"]["HTTPStatusCode"],
            "error": response["Error"]["Code"],
            "message": response["Error"].get("Message", ""),
        }
    print(json.dumps(told), flush=True)
