"""Signs the handshake of a URL as botocore does: prints a presigned URL, and the headers to add."""

import json
import sys

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

url, access_key_id, secret, region = sys.argv[1:]
credentials = Credentials(access_key_id, secret)
presigned = AWSRequest(method="GET", url=url)
SigV4QueryAuth(credentials, "execute-api", region, expires=60).add_auth(presigned)
signed = AWSRequest(method="GET", url=url)
SigV4Auth(credentials, "execute-api", region).add_auth(signed)
print(json.dumps({"url": presigned.url, "headers": dict(signed.headers.items())}))
