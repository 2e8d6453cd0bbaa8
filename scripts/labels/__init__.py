"""Parts of ``firstlight-annotate``: tables, questions in the terminal, the page, asking again."""
