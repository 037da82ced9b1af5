"""Exit code 0 where the container does what it is there for, else 1: a Docker health check without a shell.

Asks the address of CRYOSCALE_HEALTH, which the compose file sets for each service. Where there is none, the
process is one that ends by itself and serves nothing: that it runs is all that can be asked.
"""

import os
import sys
import urllib.error
import urllib.request

address = os.environ.get("CRYOSCALE_HEALTH")
if address:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            print(answer.status, address)
    except (urllib.error.URLError, OSError) as error:
        print(f"{address}: {error}", file=sys.stderr)
        sys.exit(1)
