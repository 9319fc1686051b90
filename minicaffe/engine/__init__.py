"""How a net runs: assembled from its definition, planned, and executed.

``assembly`` makes the layers and connects them; ``params`` keeps what they learn in one buffer; ``fusion`` finds
neighbours that run as one; ``segment`` captures runs of layers and replays them; ``executor`` runs all of it;
``memory_plan`` lets blobs share memory where nothing goes backward.
"""
