"""Numbers and tables of a plan as text."""

LEFT = 4  # columns of the plan that are aligned to the left


def aligned(rows: list[list[str]], left: int = LEFT) -> str:
    """Rows with their cells below each other, the first so many columns to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def hours_text(hours: float) -> str:
    """Hours as seconds, minutes, hours or days."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
