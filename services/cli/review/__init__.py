"""What a reviewer keeps: grants, pinned keys, bundles as folders."""
