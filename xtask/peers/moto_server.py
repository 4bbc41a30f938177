"""Serves S3 from memory on a free port of the loopback device, with one bucket, until standard input ends.

The port is the system's choice, so that nothing is raced for it; the address is printed once the server has answered.
Standard input ends with the process that holds its other end, however that ends.
"""

import sys
import urllib.request

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
address = f"http://{host}:{port}"
urllib.request.urlopen(urllib.request.Request(f"{address}/{sys.argv[1]}", method="PUT"), timeout=30).read()
print(address, flush=True)
sys.stdin.read()
