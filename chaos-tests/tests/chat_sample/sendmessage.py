import json
import os

import boto3
from botocore.exceptions import ClientError

table = boto3.resource("dynamodb").Table(os.environ["TABLE_NAME"])


def lambda_handler(event, context):
    domain_name = event["requestContext"]["domainName"]
    stage = event["requestContext"]["stage"]
    data = json.loads(event["body"])["data"]
    client = boto3.client("apigatewaymanagementapi", endpoint_url=f"https://{domain_name}/{stage}")
    for item in table.scan(ProjectionExpression="connectionId")["Items"]:
        connection_id = item["connectionId"]
        try:
            client.post_to_connection(ConnectionId=connection_id, Data=data.encode())
        except client.exceptions.GoneException:
            print(f"Found stale connection, deleting {connection_id}")
            table.delete_item(Key={"connectionId": connection_id})
        except ClientError as error:
            return {"statusCode": 500, "body": str(error)}
    return {"statusCode": 200, "body": "Data sent."}
