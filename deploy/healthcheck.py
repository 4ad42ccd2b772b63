"""For containers without curl: exit 0 if this container's own address answers 200.

python healthcheck.py                      the API on PAYFLOW_PORT
python healthcheck.py 9100 /metrics        a worker's figures
"""

import http.client
import os
import sys


def main(port: str = os.environ.get("PAYFLOW_PORT", "8000"), path: str = "/api/v1/health") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=2)
    try:
        connection.request("GET", path)
        return int(connection.getresponse().status != 200)
    except OSError as error:
        print(f"{path} on port {port}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
