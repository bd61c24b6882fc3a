"""The two Feistel ciphers: FF1 of NIST SP 800-38G, and pyffx's FFX, which the papers used."""
