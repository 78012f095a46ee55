"""The same as `ask.py`, as a page in your browser: the canvas is shown while it settles.

python examples/rag_llamaindex/serve.py --port 8017
"""

from __future__ import annotations

from ask import arguments, open_answers
from rag_app.server import PageServer


def main() -> None:
    parser = arguments()
    parser.add_argument("--port", type=int, default=8017)
    given = parser.parse_args()
    with PageServer(open_answers(given), given.port) as server:
        print(f"Open {server.url} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
