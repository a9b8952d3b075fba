"""Words and sentence frames of the synthetic tasks. All people, companies, products and drugs are invented.

Notation: `<name>` draws from the words or rules called name, `<name:Type>` does so and labels what it drew, `(a|b c|)`
picks one alternative, the last one here being empty. Everything else stands for itself.

A surface form means different things in different places, on purpose: Lincoln is a surname and a city, May a first
name and a month, Harbor a brand, a part of an airline's name and a plain noun, `12` a day, a dose, a gate or a price.
"""

OPEN = {
    "first": """Ada Alan Alice Amara Amit Anna April Arjun August Aurora Beatrice Ben Bianca Boris Bruno Camila Carl
        Carmen Cedric Chad Charlotte Chelsea Chen Clara Colin Dana Daniel Diego Dmitri Eleni Elif Elsa Emil Erik
        Esther Fatima Felix Fiona Florence Gabriel Georgia Grace Hana Harold Hugo Ibrahim Ida Ingrid Irene Ivan Jada
        Jasper Jordan Julia June Kenji Kofi Lars Laura Leila Lena Leon Luca Lucia Madison Malik Marco Maria Marta May
        Mei Mina Nadia Nils Noah Nora Olga Omar Oscar Otto Paolo Paris Pedro Priya Rania Ravi Rosa Ruth Samir Savannah
        Sofia Sven Sydney Tariq Thea Tobias Uma Vera Victor Victoria Wanda Yara Yusuf Zoe""",
    "last": """Abbott Adeyemi Ahmed Alvarez Austin Bauer Becker Berg Bianchi Blackwell Boston Brandt Brook Camden
        Castro Chandra Chester Cooper Costa Dallas Denver Diaz Dublin Eriksen Evans Farrell Fischer Fleming Fontaine
        Forrest Gallo Garland Goldberg Gupta Haddad Hale Hamilton Hansen Harper Hartford Hayes Heath Holm Houston
        Hudson Hughes Ito Iverson Jackson Jansen Kaplan Keller Kent Khan Kimura Klein Kowalski Lancaster Lang Larsen
        Lincoln Lindgren London Lowell Madison Marino Marsh Mbeki Mendez Meyer Milan Moreau Morgan Nakamura Neal
        Newport Nguyen Novak Oakley Odell Okafor Olsen Orlando Park Patel Pearce Perez Petrov Porter Quinn Raleigh
        Reid Richmond Rivera Roth Russo Salem Sato Schmidt Sharma Silva Singh Snow Stone Sutton Tanaka Trent Troy
        Underwood Vargas Vance Vogel Walker Warner Weaver Wells West Winters Wong York Young Zhang Ziegler""",
    "city": """Aberdeen Accra Adelaide Albany Amsterdam Ankara Athens Atlanta Austin Baltimore Bangkok Barcelona Basel
        Bergen Berlin Bern Bogota Boston Bremen Brisbane Bristol Brussels Budapest Cairo Calgary Camden Charlotte
        Chester Chicago Copenhagen Cork Dakar Dallas Delhi Denver Dresden Dublin Durban Edinburgh Florence Geneva
        Ghent Glasgow Hamburg Hanoi Hartford Havana Helsinki Houston Istanbul Jackson Jakarta Kyoto Lagos Lancaster
        Leeds Lima Lincoln Lisbon London Lowell Lyon Madison Madrid Malmo Manila Marseille Melbourne Memphis Milan
        Montreal Munich Nairobi Naples Nashville Newport Nice Odessa Orlando Osaka Oslo Ottawa Paris Perth Phoenix
        Porto Portland Prague Quito Raleigh Reading Richmond Riga Rome Rotterdam Salem Santiago Savannah Seattle Seoul
        Seville Split Stockholm Sydney Tampa Tokyo Toronto Troy Tunis Turin Utrecht Valencia Venice Victoria Vienna
        Warsaw York Zurich""",
    "country": """Argentina Australia Austria Belgium Bolivia Brazil Canada Chad Chile Colombia Croatia Denmark
        Ecuador Egypt Estonia Finland France Georgia Germany Ghana Greece Hungary Iceland India Indonesia Ireland
        Italy Japan Jordan Kenya Latvia Malaysia Mexico Morocco Nepal Norway Panama Peru Poland Portugal Senegal Spain
        Sweden Thailand Tunisia Turkey Uganda Uruguay Vietnam Zambia""",
    "brand": """Acorn Alder Anchor Arrow Atlas Aurora Badger Basalt Beacon Birch Bramble Cedar Cobalt Comet Compass
        Copper Coral Crest Delta Drift Eagle Echo Ember Falcon Fern Finch Flint Forge Glacier Granite Harbor Hazel
        Heron Horizon Indigo Ivory Jade Juniper Kestrel Lantern Lark Lumen Lynx Maple Meadow Meridian Mosaic Nimbus
        North Oak Onyx Orbit Orchard Otter Pebble Pine Pioneer Plume Polar Prairie Prism Quartz Raven Reef Ridge River
        Robin Sable Saffron Sage Sierra Signal Slate Solstice Spruce Summit Swift Tempo Terra Thistle Timber Topaz
        Tundra Vale Velvet Vertex Violet Willow Wren Zenith Zephyr""",
    "gadget": """alarm blender bookcase boots camera carpet chair clock coat cooker curtains dehumidifier desk drill
        drone dryer fan fridge grill guitar hammock hat headphones heater helmet jacket kettle keyboard ladder lamp
        laptop lawnmower mattress microscope microwave mirror mixer monitor mug oven pillow printer projector racket
        radio raincoat router rucksack sandals scale scooter shaver shelf skillet sofa speaker stroller suitcase
        sweater tablet tent thermostat toaster tripod trousers umbrella vacuum vase wallet wardrobe watch webcam
        wok""",
    "quality": """adjustable bamboo black blue bright ceramic classic compact cordless cotton double electric folding
        glass gray green heavy insulated large leather light linen mini narrow portable quiet red round silver single
        slim small smart soft solar stainless striped tall thermal travel ultra vintage waterproof white wide wireless
        wooden woollen yellow""",
    "drug": """abrizol acuvast adolmin alvipril amberol ancitab arbomax axirone belstatin benquil bextadine bravazole
        calmitol carviden cefoltin cindamab clorexin corvasten dabitril daxopram delvimab dolexan duramycin elvastin
        enozapine ersolone fenadril flexomab floritan galvopril glutazone hexadine ibalutin indomast inzepam iroxetine
        ketamyl kinazole lamodipine levastol lisomab lorvanine maxopril melotidine metarone mirvastin nadoline
        nexavane nimozol norbutin oltipraz omevastin oxilamine paltrexone panzosin pelvastin pirotan pravalone
        quelipam quinovast ralopril remotidine rivamab rosulone salvitol selquine sinadone solvapine tamopril
        telvastin tocanide trazovan ulcidine urovane valmopine velafex verazine vimostat xanolol zaltidine zeprolone
        zolmirest""",
    "illness": """abscess|acne|allergic rhinitis|anemia|angina|appendicitis|arthritis|asthma|atrial fibrillation|
        back pain|bronchitis|bursitis|cataract|celiac disease|cellulitis|chest pain|cholera|chronic cough|
        chronic fatigue|colitis|common cold|conjunctivitis|COPD|cystitis|deep vein thrombosis|dehydration|
        dengue fever|dermatitis|diabetes|diarrhea|diverticulitis|dizziness|dry eye|ear infection|eczema|edema|
        epilepsy|fever|food poisoning|gallstones|gastritis|glaucoma|gout|hay fever|heart failure|heartburn|hepatitis|
        hernia|high blood pressure|hives|hypothyroidism|insomnia|iron deficiency|irritable bowel syndrome|
        kidney stones|laryngitis|lupus|Lyme disease|malaria|measles|meningitis|migraine|mumps|muscle cramps|nausea|
        neuralgia|obesity|osteoporosis|pancreatitis|Parkinson disease|pericarditis|plantar fasciitis|pneumonia|
        psoriasis|rosacea|sciatica|seasonal allergy|shingles|shortness of breath|sinusitis|sleep apnea|sore throat|
        stroke|swollen ankles|tendinitis|tension headache|tinnitus|tonsillitis|tuberculosis|type 2 diabetes|ulcer|
        urinary tract infection|vertigo|viral infection|vitamin D deficiency|whooping cough""",
}
"""Words of each kind, held apart by split. Separated by white space, or by `|` where an entry has several words."""

RULES = {
    "year": "|".join(map(str, range(1961, 2025))),
    "month": "January|February|March|April|May|June|July|August|September|October|November|December",
    "weekday": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "day": "|".join(map(str, range(1, 32))),
    "number": "|".join(map(str, range(2, 60))),
    "small": "<number>|<number>|two|three|four|five|six|seven|eight|nine|ten",
    "age": "|".join(map(str, range(19, 94))),
    "hundred": "|".join(map(str, range(65, 990, 7))),
    "code": "|".join(
        f"{letters}{number}" for letters in ("A", "BX", "K", "QR", "TL") for number in range(104, 980, 97)
    ),
    "person": "<first> <last>|<first> <last>|<first> <last>|<first>|<first> <first> <last>|<last>",
    "title": "Dr. <last>|Dr. <first> <last>|Nurse <first>|Professor <last>|Sister <last>",
    "date": "<month> <day>|<month> <day>|<day> <month>|<weekday>|<weekday>|<weekday> <month> <day>",
    "money": "$ <hundred>|$ <number>|<small> dollars|<hundred> euros|<small> million dollars|EUR <hundred>",
    "dose": "<small> mg|<hundred> mg|<small> ml|<small> tablets|half a tablet|<small> drops|<hundred> micrograms",
    "airline": "<brand> Air|<brand> Airways|<brand> Airlines|Air <country>|<city> Express|<country> Airways",
    "company": """<last> Group|<last> and <last>|<brand> Systems|<brand> Foods|<city> Steel|<brand> Bank|
        <last> Motors|Bank of <country>|<city> Water Company|<last> Pharma|<brand> Media""",
    "body": """<country> Football Federation|University of <city>|<city> City Council|Ministry of Health|
        <city> Chamber of Commerce|<country> Central Bank|<city> Police|Institute for <country> Studies|
        <city> <brand>""",
    "organisation": "<company>|<company>|<body>",
    "place": "<city>|<city>|<country>|<country>|northern <country>|Port <last>|<brand> Valley|Lake <last>",
    "hospital": """<city> General Hospital|<last> Clinic|St. <first> Hospital|<brand> Health Centre|
        <city> Children 's Hospital|University Hospital <city>|<last> Memorial|<brand> Street Surgery""",
    "product": """<quality> <gadget>|<quality> <gadget>|<gadget>|<quality> <quality> <gadget>|<gadget> <code>|
        <quality> <gadget> <code>""",
    "thing": "harbor|river|summit|eagle|oak|orbit|signal|forge|copper|ridge|violet|tempo|compass|maple|north|anchor",
}
"""Rules shared by all splits; `|` separates the alternatives."""

FRAMES = {
    "travel": """
        (i need|i want|please book|book me|find me) a (flight|seat|ticket|one way ticket) from <city:from_city> to \
            <city:to_city> (on <date:travel_date>|)
        (i need|we want|show me) a flight to <city:to_city> from <city:from_city> (leaving|departing|on) \
            <date:travel_date>
        are there any <airline:airline> flights (out of|leaving) <city:from_city> (on <date:travel_date>|in the \
            morning|after <small> o'clock)
        what does <airline:airline> charge from <city:from_city> to <city:to_city>
        book <person:passenger> on the <airline:airline> flight to <city:to_city> (on <date:travel_date>|tomorrow|)
        the ticket is for <person:passenger> , not for <person> who (called you|made the booking) (on <date>|)
        i grew up in <city> but i (fly|leave) from <city:from_city> (now|these days|on <date:travel_date>)
        can <person:passenger> change in <city> on the way from <city:from_city> to <city:to_city>
        anything (under|below|cheaper than) <money:fare> to <city:to_city> (in <month:travel_date>|for \
            <person:passenger>|)
        i paid <money> for the hotel in <city> and <money:fare> for the (flight|ticket)
        move the (booking|reservation) of <person:passenger> from <date> to <date:travel_date>
        the <thing> was closed so we missed <airline:airline> flight <code> to <city:to_city>
        <city:from_city> to <city:to_city> (, <small> adults|, <date:travel_date>|one way|return) please
        which gate does the <city> train leave from , platform <small> or gate <small>
        does <airline:airline> (fly|go|still go) (direct|nonstop) to <city:to_city> (on <date:travel_date>|in \
            <month:travel_date>|)
        <person:passenger> and <person:passenger> would like to leave <city:from_city> (on <date:travel_date>|before \
            noon)
        is the <city> hotel near the <thing> still free (on <date>|for <small> nights)
        cancel everything for <person:passenger> , the trip to <city:to_city> and the hotel called <brand> <city>
        my name is <person> and i want to surprise <person:passenger> with a trip to <city:to_city> for <money:fare>
        the fare from <city:from_city> went up from <money> to <money:fare> (since <date>|with <airline:airline>|)
        flying <airline:airline> on <date:travel_date> , starting in <city:from_city> , ending in <city:to_city>
        how long is the layover in <city> if i take <airline:airline> to <city:to_city>
        <airline:airline> , <date:travel_date> , <person:passenger> , <money:fare>
        could <person:passenger> get a refund of <money:fare> because the plane never left <city:from_city>
        who do i ask about lost luggage , <person> at the <city> desk or <person>
    """,
    "newsdesk": """
        <person:PER> , (head|chief executive|a director|founder) of <organisation:ORG> , (resigned|said \
            nothing|stepped down) on <date:DATE> .
        Shares of <company:ORG> (fell|rose|were flat) after it (lost|won) a <money:MONEY> contract in <place:LOC> .
        Police in <place:LOC> (are looking for|arrested|spoke to) <person:PER> (on <date:DATE>|late on <date:DATE>) .
        <organisation:ORG> will open (an office|a plant|a school) in <place:LOC> (by <year:DATE>|next year) .
        The <thing> (festival|project|road) near <place:LOC> cost <money:MONEY> , <small> times the first estimate .
        " We are not (worried|done) , " said <person:PER> , who (plays|works) for <organisation:ORG> .
        <organisation:ORG> beat <organisation:ORG> <small> to <small> in <city:LOC> on <date:DATE> .
        A court in <place:LOC> ordered <company:ORG> to pay <person:PER> <money:MONEY> .
        <person:PER> grew up in <place:LOC> and (moved|fled) to <place:LOC> in <year:DATE> .
        Between <month:DATE> and <month:DATE> , <small> ships left the harbor of <city:LOC> .
        Heavy snow closed the airport of <city:LOC> , and <airline:ORG> cancelled <small> flights .
        The (mayor|bishop|governor) of <city:LOC> , <person:PER> , may march with the strikers on <date:DATE> .
        <company:ORG> bought <company:ORG> for <money:MONEY> , <person:PER> confirmed .
        Nobody at <organisation:ORG> (answered|would say) whether <last:PER> had seen the letter .
        <place:LOC> and <place:LOC> signed (a treaty|an agreement) on <thing> fishing on <date:DATE> .
        Reading the report took <last:PER> <small> days , a split second compared with the trial .
        (Critics|Fans) call the new film by <person:PER> nice , but <small> hours is long .
        In (<month:DATE>|<year:DATE>) , <organisation:ORG> found <small> new species in the hills of <place:LOC> .
        The strike at <company:ORG> spread from <city:LOC> to <city:LOC> .
        <last:PER> , <age> , met <last:PER> at a <organisation:ORG> dinner in <city:LOC> .
        <money:MONEY> was missing when auditors (left|reached) <organisation:ORG> .
        Born in <city:LOC> , <person:PER> joined <organisation:ORG> at <age> .
        (Rain|Fog|Ice) is expected in <place:LOC> until <date:DATE> .
        The donation of <money:MONEY> by <person:PER> went to <hospital:ORG> .
        <small> people , among them <person:PER> of <company:ORG> , were on the <thing> train .
    """,
    "clinic": """
        Patient (reports|complains of|presents with) <illness:Condition> (and <illness:Condition>|since \
            <date:Date>|for <small> days) .
        Started on <drug:Drug> <dose:Dosage> (daily|twice daily|at night) for <illness:Condition> .
        No (sign|evidence|history) of <illness:Condition> , mother had <illness:Condition> .
        <title:Clinician> (reviewed|saw) the patient at <hospital:Facility> on <date:Date> .
        Referred (by <title:Clinician>|) to <hospital:Facility> for <illness:Condition> .
        Increase <drug:Drug> from <dose:Dosage> to <dose:Dosage> (on <date:Date>|if tolerated|) .
        Patient is <age> years old , works in <city> for <company> .
        Allergic to <drug:Drug> ; gave <drug:Drug> <dose:Dosage> instead .
        Discharged from <hospital:Facility> on <date:Date> , seen by <title:Clinician> .
        Stop <drug:Drug> , it made the <illness:Condition> worse .
        Patient <last> (asked|called) to speak to <title:Clinician> about the <drug:Drug> .
        <illness:Condition> (resolved|improved) after <small> days of <drug:Drug> .
        Weight <small> kg , <small> cm , paid $ <hundred> , lives with <first> near <city> .
        Plan : <drug:Drug> <dose:Dosage> , rest , review with <title:Clinician> on <date:Date> .
        (Tripped over|Stood next to) a <gadget> in <city> on <date:Date> , <illness:Condition> since then .
        Took <dose:Dosage> of <drug:Drug> by mistake , transferred to <hospital:Facility> .
        Known <illness:Condition> , (stable on|controlled with) <drug:Drug> <dose:Dosage> .
        Letter from <hospital:Facility> dated <date:Date> : (query|suspected) <illness:Condition> .
        The <city> trial compared <drug:Drug> with <drug:Drug> in <illness:Condition> .
        Son <first> has <illness:Condition> , treated by <title:Clinician> in <city> .
        <title:Clinician> (may march|suggests) a slow rise to <dose:Dosage> by <date:Date> .
        Booked at <hospital:Facility> , <date:Date> , bed <small> , code <code> .
        Denies <illness:Condition> , <illness:Condition> or <illness:Condition> .
        Uses <drug:Drug> for <illness:Condition> and <drug:Drug> <dose:Dosage> for sleep .
        Pain score <small> , drank <small> glasses of water on the <thing> walk .
    """,
    "support": """
        (Hi|Hello|Good morning) , my name is <person:Customer> and my <product:Product> has not arrived .
        I ordered (the|a) <brand:Brand> <product:Product> on <date:OrderDate> (and it is broken|but got a \
            <product:Product>|) .
        Please refund <money:Amount> for the <product:Product> (I sent back|from <date:OrderDate>|) .
        <person:Agent> from your team promised me <money:Amount> (back|off) .
        Ship it to <person:Customer> in <city:ShipTo> , not to my old flat in <city> .
        The <product:Product> by <brand:Brand> (stopped working|fell apart|began to smell) after <small> days .
        Order <code> , placed <date:OrderDate> , <money:Amount> , for <person:Customer> in <city:ShipTo> .
        I spoke to <person:Agent> on <date> and was told to write to <person:Agent> .
        Can I swap my <brand:Brand> <product:Product> for the <product:Product> ?
        Is the <product:Product> in stock in your <city> store , or can you post it to <city:ShipTo> ?
        Why was I charged <money:Amount> twice for the same <gadget:Product> ?
        Still waiting in <city:ShipTo> since <date> , the parcel went to <city> . Regards , <person:Customer>
        <brand:Brand> told me the <product:Product> costs <money> in <country> , you took <money:Amount> .
        Thanks <first:Agent> , the <product:Product> works now ! <person:Customer>
        The courier left the <brand:Brand> parcel by the <thing> , <person> next door found it .
        This is <person:Customer> again , I want to speak to <person:Agent> .
        The <brand:Brand> <product:Product> I bought in <month:OrderDate> came without <small> screws .
        My wife <first> loves the <product:Product> , but <brand:Brand> sent the wrong colour .
        Please deliver on <date> , <city:ShipTo> , care of <person:Customer> .
        <person:Customer> , <city:ShipTo> : where is my <product:Product> ?
        Your chat agent <first:Agent> said <brand:Brand> would pay <money:Amount> by <date> .
        A <product:Product> for <money:Amount> and no manual , is that normal for <brand:Brand> ?
        I returned everything from <date:OrderDate> except the <product:Product> .
        Does the <gadget> holder fit the <brand:Brand> <product:Product> ?
        Dear <first:Agent> , I live <small> km from <city> , so post the <product:Product> to <city:ShipTo> .
    """,
}
"""Sentence frames of each task, one a line. Every fifth frame is kept out of training."""
