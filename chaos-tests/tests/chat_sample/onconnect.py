import os

import boto3

table = boto3.resource("dynamodb").Table(os.environ["TABLE_NAME"])


def lambda_handler(event, context):
    connection_id = event["requestContext"]["connectionId"]
    try:
        table.put_item(Item={"connectionId": connection_id})
    except Exception as error:
        return {"statusCode": 500, "body": f"Failed to connect: {error}"}
    return {"statusCode": 200, "body": "Connected."}
