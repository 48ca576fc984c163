"""What is protected: how pictures are described so that a copy of one is found."""
