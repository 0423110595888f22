"""Makes the secret with the admin token, once: a secret that is there already is left as it is."""

import json
import os
import pathlib
import secrets
import ssl
import sys
import urllib.error
import urllib.request

account = pathlib.Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
api = os.environ.get("API", "https://kubernetes.default.svc")
wanted = json.loads(os.environ["SECRET"])  # metadata of the secret, and the name of its key
document = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": wanted["metadata"],
    "type": "Opaque",
    "stringData": {wanted["key"]: secrets.token_urlsafe(32)},
}
request = urllib.request.Request(
    f"{api}/api/v1/namespaces/{wanted['metadata']['namespace']}/secrets",
    data=json.dumps(document).encode(),
    headers={
        "Authorization": f"Bearer {(account / 'token').read_text().strip()}",
        "Content-Type": "application/json",
    },
)
authorities = account / "ca.crt"
context = ssl.create_default_context(cafile=authorities) if authorities.exists() else None
try:
    urllib.request.urlopen(request, timeout=20, context=context)
    print("the secret was made")
except urllib.error.HTTPError as error:
    if error.code != 409:
        sys.exit(f"the secret could not be made: {error.code} {error.read(500).decode(errors='replace')}")
    print("the secret is there already")
