"""One shielded call: its policy, its checks at each step, its retries and its output."""
